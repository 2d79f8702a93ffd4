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
    scale_offset: float


class _Shared(TypedDict):
    epsilon: float
    scale_offset: float
    mask: Array | None
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    dtype: DTypeLike | None


class SampleModule(AffineModule):
    """The attributes that normalizers with moments of each example share.

    Attributes are those of `AffineModule`, and:

    Attributes:
      epsilon: Added to the variance; at least 0.
      axis_name: Mapped axis or axes over which the reduced axes are divided. Under
        `jax.jit` a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: Without effect: the variance is exact however large the mean,
        which that of Flax's one pass is not.
      scale_offset: Is added to the stored scale, in float32 or wider: 1 for models that
        store the distance from 1, so that weight decay pulls towards the identity. By
        default the stored scale then starts at 0.
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        epsilon: float = 1e-6,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
        use_fast_variance: bool = True,
        scale_offset: float = 0.0,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        affine.setdefault("scale_init", nnx.initializers.constant(1 - scale_offset))
        super().__init__(num_features, rngs=rngs, **affine)
        self.epsilon = epsilon
        self.axis_name = hashable(axis_name)
        self.axis_index_groups = hashable(axis_index_groups)
        self.use_fast_variance = use_fast_variance
        self.scale_offset = scale_offset

    def _shared(self, mask: Array | None) -> _Shared:
        """Returns the keyword options that the functions share."""
        return {
            "epsilon": self.epsilon,
            "scale_offset": self.scale_offset,
            "mask": mask,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
            "dtype": self.dtype,
        }
