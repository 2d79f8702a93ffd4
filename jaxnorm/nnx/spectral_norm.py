"""Spectral normalization as a Flax NNX wrapper of a layer."""

from typing import Any

from flax import nnx
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm.nnx.variables import read, show_signature
from jaxnorm.nnx.wrapping import Path, call_with_params, own, params_of
from jaxnorm.weight.spectral_norm import spectral_norm

__all__ = ["SpectralNorm"]


@show_signature
class SpectralNorm(nnx.Module):
    """Spectral normalization of the wrapped layer.

    A drop-in superset of `flax.nnx.SpectralNorm`: the same arguments, defaults and
    variables. It computes `jaxnorm.spectral_norm`, for each parameter of two or more
    axes; a bias that was 0 once is left alone. Unlike in Flax, a call never changes the
    layer: its kernel stays what the optimizer made of it, and gradients reach it.

    Attributes:
      layer_instance: The wrapped layer.
      batch_stats: `nnx.BatchStat` by the path of a parameter and "u" or "sigma", such
        as `("kernel", "u")`.
      n_steps: Number of power iterations per call; less than 1 disables the
        normalization.
      epsilon: Added to the squared norms of the singular vectors, in units of the
        largest absolute value of the kernel; at least 0.
      dtype: Dtype of the normalized parameters; by default what parameter and u promote
        to.
      param_dtype: Dtype of u and sigma.
      error_on_non_matrix: Whether parameters of more than two axes are an error. By
        default all axes but the last are flattened into one.
      update_stats: Whether a call updates u and sigma; the call may override it.
      warm_up_steps: Number of power iterations in the constructor. With 0 steps, as in
        Flax, u is random and sigma is far too small at first; 15 steps work well.
      rngs: Keys for the initial u.
      use_running_average: Whether calls keep u and sigma, unless they pass
        `update_stats`; the opposite of `update_stats`. `train()`, `eval()` and
        `nnx.view` set it.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
      >>> wrapped = jaxnorm.nnx.SpectralNorm(layer, warm_up_steps=15, rngs=nnx.Rngs(1))
      >>> y = wrapped(jnp.ones((2, 4)))
      >>> largest = jnp.linalg.svd(layer.kernel[...])[1][0]
      >>> sigma = wrapped.batch_stats["kernel", "sigma"][...]
      >>> jnp.allclose(sigma, largest, rtol=1e-2)
      Array(True, dtype=bool)
    """

    def __init__(
        self,
        layer_instance: nnx.Module,
        *,
        n_steps: int = 1,
        epsilon: float = 1e-12,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        error_on_non_matrix: bool = False,
        update_stats: bool = True,
        warm_up_steps: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        self.layer_instance = layer_instance
        self.n_steps = n_steps
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.error_on_non_matrix = error_on_non_matrix
        self.use_running_average: bool | None = not update_stats
        batch_stats: dict[Path, nnx.BatchStat[Array]] = {}
        init = nnx.initializers.normal()
        for path, value in self._matrices().items():
            u = init(rngs.params(), (1, value.shape[-1]), param_dtype)
            if warm_up_steps > 0:
                _, u, _ = self._iterate(path, value, u, warm_up_steps)
            batch_stats[*path, "u"] = nnx.BatchStat(u)
            batch_stats[*path, "sigma"] = nnx.BatchStat(jnp.ones((), param_dtype))
        self.batch_stats = nnx.data(batch_stats)

    def __call__(
        self, x: Any, update_stats: bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Calls the wrapped layer with normalized parameters.

        Args:
          x: First argument of the wrapped layer.
          update_stats: Whether to store the new u and sigma; True in training.
          *args: Further arguments of the wrapped layer.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          The output of the wrapped layer.

        Raises:
          ValueError: If a parameter has more than two axes and `error_on_non_matrix` is
            set, or the layer has a parameter that it lacked when it was wrapped.
        """
        if update_stats is None:
            update_stats = not self.use_running_average
        normalized = {}
        for path, value in self._matrices().items():
            u = own(self.batch_stats, (*path, "u"))
            sigma = own(self.batch_stats, (*path, "sigma"))
            normalized[path], new_u, new_sigma = self._iterate(
                path, value, read(u), self.n_steps
            )
            if update_stats:
                dtype = sigma.get_value().dtype
                u.set_value(new_u)
                sigma.set_value(lax.stop_gradient(new_sigma).astype(dtype))
        return call_with_params(self.layer_instance, normalized, (x, *args), kwargs)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the attributes that `nnx.view` passes.

        Args:
          use_running_average: Whether calls keep u and sigma.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _matrices(self) -> dict[Path, Array]:
        """Returns the parameters that are normalized."""
        if self.n_steps < 1:
            return {}
        params = params_of(self.layer_instance)
        matrices = {path: value for path, value in params.items() if value.ndim > 1}
        for path, value in matrices.items():
            if value.ndim > 2 and self.error_on_non_matrix:
                # Starts like Flax's message, which callers may match.
                raise ValueError(
                    f"Layer instance parameter is {value.ndim}D but "
                    f"error_on_non_matrix is True: {path} has shape {value.shape}."
                )
        return matrices

    def _iterate(
        self, path: Path, value: Array, u: Array, n_steps: int
    ) -> tuple[Array, Array, Array]:
        """Returns the normalized parameter, the new u and sigma, by power iteration.

        If u is 0, it restarts from a fixed vector; not for a bias, as in Flax.
        """
        normalized, new_u, sigma = spectral_norm(
            value,
            u[0],
            n_steps=n_steps,
            epsilon=self.epsilon,
            restart=path[-1] != "bias",
            dtype=self.dtype,
        )
        return normalized, new_u[None], sigma
