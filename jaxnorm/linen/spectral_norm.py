"""Spectral normalization as a Flax Linen wrapper of a layer."""

from typing import Any

import jax
from flax import linen as nn
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm.linen.wrapping import call_with_params
from jaxnorm.weight.spectral_norm import spectral_norm

__all__ = ["SpectralNorm"]


class SpectralNorm(nn.Module):
    """Spectral normalization of the wrapped layer.

    A drop-in superset of `flax.linen.SpectralNorm`: the same arguments, defaults, names
    of variables (such as `Dense_0/kernel/u` and `Dense_0/kernel/sigma` in
    `batch_stats`) and initialization, so that its checkpoints load unchanged. It
    computes `jaxnorm.spectral_norm`, for each parameter of two or more axes.

    A kernel of zeros is returned unchanged. Unlike in Flax, it leaves a u from which
    later calls find the singular value, and so does a u of zeros in a checkpoint. As in
    Flax, a bias with two axes, as in attention, is not normalized any more once it was
    0, and initialization stores the normalized kernel; later calls do not change it.
    Other collections of the wrapped layer pass through unchanged.

    Attributes:
      layer_instance: The layer to wrap.
      n_steps: Number of power iterations per call; less than 1 disables the
        normalization.
      epsilon: Added to the squared norms of the singular vectors, in units of the
        largest absolute value of the kernel; at least 0. (Flax adds epsilon itself, and
        so leaves kernels below 1e-6 too large.)
      dtype: Dtype of the normalized parameters; by default what parameter and u promote
        to.
      param_dtype: Dtype of u and sigma.
      error_on_non_matrix: Whether parameters of more than two axes are an error. By
        default all axes but the last are flattened into one.
      collection_name: Collection of u and sigma.
      warm_up_steps: Number of power iterations during initialization. With 0 steps, as
        in Flax, u is random and sigma is far too small at first; 15 steps work well.

    Example:
      >>> import functools, jax, jax.numpy as jnp, flax.linen as nn, jaxnorm.linen
      >>> layer = jaxnorm.linen.SpectralNorm(nn.Dense(3), warm_up_steps=15)
      >>> x = jnp.ones((2, 4))
      >>> init = functools.partial(layer.init, update_stats=False)
      >>> variables = jax.eval_shape(init, jax.random.key(0), x)  # shapes alone
      >>> train = functools.partial(
      ...     layer.apply, update_stats=True, mutable=["batch_stats"]
      ... )
      >>> y, updates = jax.eval_shape(train, variables, x)
      >>> jax.tree.map(jnp.shape, updates["batch_stats"])
      {'layer_instance/kernel/sigma': (), 'layer_instance/kernel/u': (1, 3)}
    """

    layer_instance: nn.Module
    n_steps: int = 1
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    error_on_non_matrix: bool = False
    collection_name: str = "batch_stats"
    warm_up_steps: int = 0

    @nn.compact
    def __call__(self, *args: Any, update_stats: bool, **kwargs: Any) -> Any:
        """Calls the wrapped layer with normalized parameters.

        Args:
          *args: Arguments of the wrapped layer.
          update_stats: Whether to store the new u and sigma; True in training, with
            their collection mutable.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          The output of the wrapped layer.

        Raises:
          ValueError: If a parameter has more than two axes and `error_on_non_matrix` is
            set.
        """

        def change(name: str, value: Array) -> Array:
            if value.ndim < 2 or self.n_steps < 1:
                return value
            if value.ndim > 2 and self.error_on_non_matrix:
                raise ValueError(
                    f"Input is {value.ndim}D but error_on_non_matrix is True: "
                    f"{name} has shape {value.shape}."
                )
            return self._normalize(name, value, update_stats)

        return call_with_params(
            self.layer_instance, change, args, kwargs, store_changed=True
        )

    def _normalize(self, name: str, value: Array, update_stats: bool) -> Array:
        """Returns a parameter divided by sigma; stores the new u and sigma."""

        def init_u() -> Array:
            shape = (1, value.shape[-1])
            u = jax.random.normal(self.make_rng("params"), shape, self.param_dtype)
            if self.warm_up_steps < 1:
                return u
            return self._iterate(name, value, u, self.warm_up_steps)[1]

        u = self.variable(self.collection_name, f"{name}/u", init_u)
        sigma = self.variable(
            self.collection_name, f"{name}/sigma", jnp.ones, (), self.param_dtype
        )
        # A loaded checkpoint may hold NumPy arrays.
        start = jnp.asarray(u.value)
        normalized, new_u, new_sigma = self._iterate(name, value, start, self.n_steps)
        if update_stats:
            u.value = new_u
            sigma.value = lax.stop_gradient(new_sigma).astype(sigma.value.dtype)
        return normalized

    def _iterate(
        self, name: str, value: Array, u: Array, n_steps: int
    ) -> tuple[Array, Array, Array]:
        """Returns the normalized parameter, the new u and sigma, by power iteration.

        If u is 0, it restarts from a fixed vector; not for a bias, as in Flax.
        """
        normalized, new_u, sigma = spectral_norm(
            value,
            u[0],
            n_steps=n_steps,
            epsilon=self.epsilon,
            restart=not name.endswith("/bias"),
            dtype=self.dtype,
        )
        return normalized, new_u[None], sigma
