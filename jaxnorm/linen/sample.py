"""Per-example norms as Flax Linen modules."""

from jaxnorm._layers import group, rms
from jaxnorm._layers import sample as layers
from jaxnorm.linen.module import SampleModule

__all__ = [
    "CausalGroupNorm",
    "GatedRMSNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "ReversibleInstanceNorm",
    "SeedNorm",
    "UnitNorm",
]


class LayerNorm(SampleModule, layers.LayerNorm):
    """Layer normalization, over the features of each example.

    A drop-in superset of `flax.linen.LayerNorm`: the same arguments, defaults, variable
    tree (`params`: scale, bias) and initialization, so that its checkpoints load
    unchanged. It computes `jaxnorm.layer_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
      >>> norm = jaxnorm.linen.LayerNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32)
    """


class RMSNorm(SampleModule, rms.RMSNorm):
    """Root mean square normalization, over the features of each example.

    A drop-in superset of `flax.linen.RMSNorm`: the same arguments, defaults, variable
    tree (`params`: scale) and initialization, so that its checkpoints load unchanged.
    It computes `jaxnorm.rms_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0, 2.0], [3.0, -3.0]])
      >>> norm = jaxnorm.linen.RMSNorm(scale_offset=1.0)
      >>> variables = norm.init(jax.random.key(0), x)
      >>> variables["params"]["scale"]
      Array([0., 0.], dtype=float32)
      >>> norm.apply(variables, x).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)
    """


class GatedRMSNorm(SampleModule, rms.GatedRMSNorm):
    """Root mean square normalization with a gate, as in Mamba 2 and Qwen3-Next.

    The only variable is the parameter `scale`. It computes `jaxnorm.gated_rms_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0, -2.0, 4.0, 4.0]])
      >>> gate = jnp.array([[0.0, 2.0, 0.0, 2.0]])
      >>> norm = jaxnorm.linen.GatedRMSNorm(num_groups=2, gate_first=True)
      >>> variables = norm.init(jax.random.key(0), x, gate)
      >>> norm.apply(variables, x, gate).round(2)
      Array([[ 0.  , -1.41,  0.  ,  1.41]], dtype=float32)
    """


class SeedNorm(SampleModule, rms.SeedNorm):
    """Self-rescaled dynamic normalization (SeeDNorm), whose scale depends on the input.

    Its parameters are `alpha`, `beta` and `scale`, of the feature shape. Initially it
    is RMS norm. It computes `jaxnorm.seed_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> from flax import linen as nn
      >>> x = jnp.array([[3.0, 3.0], [0.1, -0.3]])
      >>> norm = jaxnorm.linen.SeedNorm(beta_init=nn.initializers.constant(0.5))
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(1)
      Array([[ 2. ,  2. ],
             [ 0.4, -1.2]], dtype=float32)
    """


class GroupNorm(SampleModule, group.GroupNorm):
    """Group normalization, over groups of adjacent features of each example.

    A drop-in superset of `flax.linen.GroupNorm`: the same arguments, defaults, variable
    tree (`params`: scale, bias) and initialization, so that its checkpoints load
    unchanged. It computes `jaxnorm.group_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
      >>> norm = jaxnorm.linen.GroupNorm(num_groups=2)
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """


class CausalGroupNorm(SampleModule, group.CausalGroupNorm):
    """Causal group normalization, over all time steps up to the current one.

    It normalizes a stream in chunks: pass the moments that a call returns to the next
    call. Moments are not variables. The parameters are `scale` and `bias`. It computes
    `jaxnorm.causal_group_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[0.0, 2.0], [2.0, 0.0], [6.0, 2.0]]])  # batch, time, features
      >>> norm = jaxnorm.linen.CausalGroupNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> first, moments = norm.apply(variables, x[:, :2])
      >>> rest, moments = norm.apply(variables, x[:, 2:], moments)
      >>> rest.round(3)
      Array([[[2., 0.]]], dtype=float32)
    """


class InstanceNorm(SampleModule, layers.InstanceNorm):
    """Instance normalization, over space for each feature of each example.

    A drop-in superset of `flax.linen.InstanceNorm`: the same arguments, defaults,
    variable tree (`params`: scale, bias) and initialization, so that its checkpoints
    load unchanged. It computes `jaxnorm.instance_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])  # one example, two positions
      >>> norm = jaxnorm.linen.InstanceNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[[-1., -1.],
              [ 1.,  1.]]], dtype=float32)
    """


class ReversibleInstanceNorm(SampleModule, layers.ReversibleInstanceNorm):
    """Normalizes each series over time, and returns the inverse for forecasts.

    It computes `jaxnorm.reversible_instance_norm`. Variables: `params`: scale and bias,
    which the inverse undoes.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # two series, two times
      >>> norm = jaxnorm.linen.ReversibleInstanceNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> y, undo = norm.apply(variables, x)
      >>> undo(jnp.zeros((2, 3, 1)))[..., 0]  # a forecast of three time steps
      Array([[ 2.,  2.,  2.],
             [20., 20., 20.]], dtype=float32)
    """


class UnitNorm(SampleModule, rms.UnitNorm):
    """Divides vectors by their length.

    It has no variables. It computes `jaxnorm.unit_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.UnitNorm()
      >>> norm.apply({}, jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3)
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """
