"""The optimizer that a configuration describes."""

import ml_collections
import optax
from flax import traverse_util

import jaxnorm


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Returns Adam, with decoupled decay of kernels if `config.weight_decay` > 0.

    The gates of batch-instance norm are projected to [0, 1] after each step.
    """
    learning_rate = config.learning_rate
    if config.schedule == "cosine":
        learning_rate = optax.cosine_decay_schedule(learning_rate, num_steps)

    def kernels(params):
        # There are few scales and biases, and zero is not a natural value for a scale.
        return traverse_util.path_aware_map(
            lambda path, _: path[-1] == "kernel", params
        )

    optimizer = optax.adam(learning_rate)
    if config.weight_decay:
        optimizer = optax.adamw(
            learning_rate, weight_decay=config.weight_decay, mask=kernels
        )
    if config.norm == "batch_instance":
        optimizer = optax.chain(optimizer, jaxnorm.gate_projection())
    return optimizer
