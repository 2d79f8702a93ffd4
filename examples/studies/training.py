"""Training as a pure function of seed and numbers, for `jit` and `vmap`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from digits import Digits, Examples, order
from flax import linen as nn
from jax import lax

from jaxnorm import tools

# The collections of a model.
Variables = dict[str, Any]
_EVALUATED_AT_ONCE = 500


class Trained(NamedTuple):
    """The results of training.

    Attributes:
      variables: variables after the last step.
      losses: (num_steps,), the loss of the batch of each step.
      evaluations: results of `evaluate`, with a leading axis that has one entry for
        every `eval_every` steps.
    """

    variables: Variables
    losses: jax.Array
    evaluations: Any

    @property
    def last(self) -> Any:
        """Returns the evaluation after the last step."""
        return jax.tree.map(lambda x: x[-1], self.evaluations)


def sgd(
    learning_rate: float | jax.Array, weight_decay: float | jax.Array = 0.0
) -> optax.GradientTransformation:
    """Returns SGD with momentum 0.9; learning rate and decay may be traced.

    The decay is L2 regularization of all weights except scales and biases.
    """

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.chain(
        optax.masked(optax.add_decayed_weights(weight_decay), kernels),
        optax.sgd(learning_rate, momentum=0.9),
    )


def train(
    net: nn.Module,
    optimizer: optax.GradientTransformation,
    digits: Digits,
    seed: jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    eval_every: int | None = None,
    evaluate: Callable[[nn.Module, Variables, Digits], Any] | None = None,
    reference_size: int = 0,
) -> Trained:
    """Trains a network from its initialization.

    Args:
      net: a network with the call of `nets.Net`.
      optimizer: the optimizer, whose hyperparameters may be traced.
      digits: training and test examples.
      seed: an integer seed for initialization, order and dropout.
      num_steps: at least 1.
      batch_size: at most the number of training examples.
      eval_every: steps between evaluations, a divisor of `num_steps`; None evaluates
        once, after the last step.
      evaluate: a function of net, variables and digits; None means `accuracies`.
      reference_size: number of reference examples for virtual batch norm; 0 means none.
    """
    evaluate = accuracies if evaluate is None else evaluate
    eval_every = eval_every or num_steps
    init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
    reference = digits.train.images[:reference_size]

    def with_reference(variables: Variables) -> Variables:
        if not reference_size:
            return variables
        _, updates = net.apply(variables, reference, train=False, mutable=["reference"])
        return {**variables, **updates}

    def loss(params, batch_stats, batch: Examples, key):
        variables = with_reference({"params": params, "batch_stats": batch_stats})
        logits, updates = net.apply(
            variables,
            batch.images,
            dropout_key=key,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return jnp.mean(losses), updates.get("batch_stats", batch_stats)

    def step(state, inputs):
        params, batch_stats, optimizer_state = state
        number, indices = inputs
        batch = jax.tree.map(lambda x: x[indices], digits.train)
        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(
            params, batch_stats, batch, jax.random.fold_in(step_key, number)
        )
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        return (params, batch_stats, optimizer_state), value

    def until_evaluation(state, inputs):
        state, losses = lax.scan(step, state, inputs)
        return state, (losses, evaluate(net, variables_of(state), digits))

    def variables_of(state) -> Variables:
        return with_reference({"params": state[0], "batch_stats": state[1]})

    variables = net.init(init_key, digits.train.images[:1], train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    indices = order(order_key, len(digits.train.labels), batch_size, num_steps)
    inputs = jax.tree.map(
        lambda x: x.reshape((-1, eval_every, *x.shape[1:])),
        (jnp.arange(num_steps), indices),
    )
    state = params, batch_stats, optimizer.init(params)
    state, (losses, evaluations) = lax.scan(until_evaluation, state, inputs)
    return Trained(variables_of(state), losses.reshape(-1), evaluations)


def train_as(
    config: ml_collections.ConfigDict,
    net: nn.Module,
    optimizer: optax.GradientTransformation,
    digits: Digits,
    seed: jax.Array,
    evaluate: Callable[[nn.Module, Variables, Digits], Any] | None = None,
) -> Trained:
    """Calls `train` with the numbers of steps in a configuration."""
    names = "num_steps", "batch_size", "eval_every"
    steps = {name: config[name] for name in names if name in config}
    return train(net, optimizer, digits, seed, evaluate=evaluate, **steps)


def accuracies(
    net: nn.Module, variables: Variables, digits: Digits
) -> dict[str, jax.Array]:
    """Returns mean losses and accuracies, with running statistics.

    The training values use the first training examples, as many as there are test
    examples.

    Args:
      net: a network with the call of `nets.Net`.
      variables: its collections.
      digits: training and test examples; each test example counts once.

    Returns:
      `train_loss`, `train_accuracy`, `test_loss`, `test_accuracy`, float32 scalars.
    """
    size = len(digits.test.labels)
    splits = {"train": jax.tree.map(lambda x: x[:size], digits.train)}
    splits["test"] = digits.test
    # One loop over both, so that the network is compiled only once.
    both = jax.tree.map(lambda *x: jnp.concatenate(x), *splits.values())
    results = measure(net, variables, both)
    num_train = len(splits["train"].labels)
    parts = {"train": slice(num_train), "test": slice(num_train, None)}
    return {
        f"{split}_{quantity}": jnp.mean(values[part])
        for split, part in parts.items()
        for quantity, values in results.items()
    }


def measure(
    net: nn.Module,
    variables: Variables,
    examples: Examples,
    *,
    batch_size: int = _EVALUATED_AT_ONCE,
    train: bool = False,
) -> dict[str, jax.Array]:
    """Returns loss and correctness of each example, in masked batches.

    Args:
      net: a network with the call of `nets.Net`.
      variables: its collections.
      examples: N examples.
      batch_size: at least 1.
      train: whether to normalize by the statistics of each batch; no statistic changes.

    Returns:
      `loss` and `accuracy`, (N,) float32; the latter is 0 or 1.
    """
    count = len(examples.labels)
    size = min(batch_size, count)
    rows = jnp.arange(-(-count // size) * size).reshape((-1, size))

    def batch(rows: jax.Array) -> dict[str, jax.Array]:
        mask = rows < count
        part = jax.tree.map(lambda x: x[jnp.where(mask, rows, 0)], examples)
        logits, _ = net.apply(
            variables, part.images, mask=mask, train=train, mutable=["batch_stats"]
        )
        return {
            "loss": optax.softmax_cross_entropy_with_integer_labels(
                logits, part.labels
            ),
            "accuracy": (jnp.argmax(logits, -1) == part.labels).astype(jnp.float32),
        }

    results = lax.map(batch, rows)
    return jax.tree.map(lambda x: x.reshape(-1)[:count], results)


def recalibrated(
    net: nn.Module, variables: Variables, images: jax.Array, prior_examples: int = 0
) -> Variables:
    """Returns variables whose running statistics are exact for the given images.

    Args:
      net: a network with the call of `nets.Net`.
      variables: its collections.
      images: (N, H, W, 1), all at once.
      prior_examples: number of examples whose weight the old statistics get.
    """

    def collect(variables: Variables, images: jax.Array) -> Variables:
        _, updates = net.apply(variables, images, train=True, mutable=["batch_moments"])
        return updates["batch_moments"]

    stats = tools.recalibrate(collect, variables, [images])
    if prior_examples:
        # The same as `prior_examples` of `recalibrate`, which does not support `jit`.
        stats = tools.merge_batch_stats(
            [variables["batch_stats"], stats], counts=[prior_examples, len(images)]
        )
    return {**variables, "batch_stats": stats}
