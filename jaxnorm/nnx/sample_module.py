"""What the modules share that normalize each example and share it between devices."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxnorm.core.collectives import Groups
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable


class SampleOptions(AffineOptions, total=False):
    """The constructor's options of `SampleModule`, for classes that hand them on."""

    epsilon: float
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    use_fast_variance: bool


class _Shared(TypedDict):
    epsilon: float
    mask: Array | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    dtype: DTypeLike | None


class SampleModule(AffineModule):
    """The attributes that layer, RMS, group and instance norm share.

    Attributes are those of `AffineModule`, and:

    Attributes:
      epsilon: Added to the variance; at least 0.
      axis_name: Mapped axis or axes over which the reduced axes are divided. Under
        `jax.jit` a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: Without effect: the variance is exact however large the mean,
        which that of Flax's one pass is not.
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        epsilon: float = 1e-6,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
        use_fast_variance: bool = True,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.epsilon = epsilon
        self.axis_name = hashable(axis_name)
        self.axis_index_groups = hashable(axis_index_groups)
        self.use_fast_variance = use_fast_variance

    def _shared(self, mask: Array | None) -> _Shared:
        """Returns the keyword options that the four functions share."""
        return {
            "epsilon": self.epsilon,
            "mask": mask,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
            "dtype": self.dtype,
        }
