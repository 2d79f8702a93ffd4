"""Layers that mix statistics of the batch with statistics of each example."""

from typing import Any

import jax
from jax import Array
from jax.nn import initializers
from jax.nn.initializers import Initializer

import jaxnorm
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._layers.batch_layer import BatchLayer
from jaxnorm._layers.fields import Arrays, description
from jaxnorm.hybrid.instance_batch_norm import check_instance_features


@description
class BatchInstanceNorm(BatchLayer):
    """A learned mixture of batch norm and instance norm for each feature.

    Attributes:
      gate_init: Initializer of the gate; 1, which is batch norm.
    """

    gate_init: Initializer = initializers.ones

    _function = staticmethod(jaxnorm.batch_instance_norm)
    _required = ("gate",)


@description
class SwitchableNorm(BatchLayer):
    """A learned mixture of instance, layer and batch statistics.

    Attributes:
      logits_init: Initializer of the logits; by default 1, for equal weights.
    """

    logits_init: Initializer = initializers.ones

    _function = staticmethod(jaxnorm.switchable_norm)
    _required = ("mean_logits", "var_logits")
    _keeps_single_values = True  # the layer's mean has other values too

    def _shape(self, name: str, features: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a parameter: (3,) for logits."""
        return (3,) if name in self._required else features

    def _initializer(self, name: str) -> Initializer:
        """Returns the initializer of a parameter: `logits_init` for both logits."""
        return super()._initializer("logits" if name in self._required else name)


@description
class InstanceBatchNorm(BatchLayer):
    """Instance norm for some features and batch norm for the others.

    Attributes:
      instance_features: Number of features that instance norm normalizes, from the
        first on; by default half of the features, rounded down.
    """

    instance_features: int | None = None

    _function = staticmethod(jaxnorm.instance_batch_norm)

    def _instance_features(self, features: int) -> int:
        """Returns the number of features that are normalized by instance."""
        given = self.instance_features
        if given is None:
            return features // 2
        return check_instance_features(given, features)

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        """Returns running statistics of the features normalized by batch."""
        if len(features) != 1:
            raise ValueError(
                f"axis must be one axis here, got {self.axis!r}: the first features "
                "are normalized by instance."
            )
        rest = features[0] - self._instance_features(features[0])
        return super()._initial_stats((rest,), counted=counted)

    def _moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns exact moments of the features normalized by batch."""
        (axis,) = self._feature_axes(x)
        first = self._instance_features(x.shape[axis])
        return jax.tree.map(lambda leaf: leaf[first:], super()._moments(x, options))

    def _forward(self, x: Array, stats: Any, params: Arrays, options: Any) -> Any:
        """Normalizes x; passes on the number of features for instance norm."""
        (axis,) = self._feature_axes(x)
        first = self._instance_features(x.shape[axis])
        return super()._forward(
            x, stats, params, options | {"instance_features": first}
        )
