"""Batch norm with statistics per time step or per domain as Flax Linen modules."""

from jaxnorm._layers import recurrent as layers
from jaxnorm.linen.module import BatchModule

__all__ = ["DomainBatchNorm", "RecurrentBatchNorm"]


class RecurrentBatchNorm(BatchModule, layers.RecurrentBatchNorm):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    It computes `jaxnorm.recurrent_batch_norm`. Variables: `params`: scale and bias,
    shared over time; `batch_stats`: mean, var, with a leading axis of time steps. In
    `nn.scan` and `nn.RNN`, carry the statistics in training with
    `variable_carry="batch_stats"`, and broadcast them in inference with
    `variable_broadcast=("params", "batch_stats")`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.RecurrentBatchNorm(max_steps=3, momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, 0, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, 1, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"][:, 0]
      Array([0., 1., 0.], dtype=float32)
    """


class DomainBatchNorm(BatchModule, layers.DomainBatchNorm):
    """Batch norm with separate statistics for each domain, chosen in the call.

    Use it for data from several sources whose activations differ: languages, scanners,
    clean and adversarial images. Scale and bias are shared; for a separate scale and
    bias for each domain, use one `BatchNorm` per domain.

    Variables: `params`: scale, bias; `batch_stats`: mean, var, with a leading axis of
    domains.

    References: Chang et al., 2019, Domain-Specific Batch Normalization
    (https://arxiv.org/abs/1906.03950). Xie et al., 2020, Adversarial Examples Improve
    Image Recognition (https://arxiv.org/abs/1911.09665).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.DomainBatchNorm(num_domains=2, momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, 0, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, 1, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"][:, 0]
      Array([0., 1.], dtype=float32)
    """
