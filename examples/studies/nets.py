"""Small plain nets whose hidden layers are normalized in any way."""

import digits  # noqa: F401  (which knows the way to the example's files)
import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from norms import NORMS, NormOptions
from study import StudyError


class Net(nn.Module):
    """Layers with norm and relu, a mean over positions, and a dense layer of logits.

    What the relus see is in the collection `intermediates`, on request, as
    `activation_inputs`, a tuple with an array for each layer.

    Attributes:
      widths: features of the hidden layers.
      norm: a name in the example's `NORMS`.
      options: for the norm.
      dense: hidden layers see all pixels, in place of 3 x 3 pixels around their own. As
        convolutions, each second one halves the image.
      placement: "before_activation" or "after_activation".
      init_scale: times the standard deviation sqrt(2 / inputs) of the initial weights;
        may be traced.
      dropout_rate: the part of each hidden layer's output that is dropped; may be
        traced. None: without the code for it.
    """

    widths: tuple[int, ...]
    norm: str
    options: NormOptions
    dense: bool = False
    placement: str = "before_activation"
    init_scale: float | jax.Array = 1.0
    dropout_rate: float | jax.Array | None = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        mask: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        train: bool,
    ) -> jax.Array:
        """Returns logits.

        Args:
          images: (N, H, W, 1) float32.
          mask: (N,) bool, False for padding, which reaches no statistic; None: no
            padding.
          dropout_key: of random numbers; None: nothing is dropped.
          train: normalize by the statistics of this batch.

        Returns:
          (N, 10) float32.
        """
        if mask is None:
            mask = jnp.ones(images.shape[:1], bool)
        x = images.reshape((len(images), -1)) if self.dense else images
        for layer, width in enumerate(self.widths):
            if not self.dense:
                x = patches(x, stride=1 + layer % 2)
            x = self._hidden(width, x, mask, train)
            if self.dropout_rate is not None and dropout_key is not None:
                key = jax.random.fold_in(dropout_key, layer)
                kept = jax.random.uniform(key, x.shape) >= self.dropout_rate
                x = jnp.where(kept, x / (1 - self.dropout_rate), 0)
        if not self.dense:
            x = x.mean((1, 2))
        return nn.Dense(10)(x)

    def _hidden(
        self, width: int, x: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        norm = NORMS[self.norm]
        layer = nn.Dense(width, kernel_init=self._kernel_init)
        x = norm.wrap(layer, train)(x)
        normalize = norm.make(self.options, train)
        mask = mask.reshape((-1,) + (1,) * (x.ndim - 1))
        if norm.activates:
            return normalize(x, mask=mask)
        before = self.placement == "before_activation"
        if before:
            x = normalize(x, mask=mask)
        self.sow("intermediates", "activation_inputs", x)
        x = nn.relu(x)
        return x if before else normalize(x, mask=mask)

    def _kernel_init(self, *arguments) -> jax.Array:
        return self.init_scale * nn.initializers.he_normal()(*arguments)


def patches(x: jax.Array, stride: int) -> jax.Array:
    """Returns the 3 x 3 positions around each one, with zeros beyond the border.

    A convolution is a dense layer over them. So, a CPU trains these small nets in a
    fifth of the time that it takes with `flax.linen.Conv`, one seed or several.

    Args:
      x: (N, H, W, C).
      stride: of the positions.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), 9 C).
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate(
        [
            padded[:, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )


def create(config: ml_collections.ConfigDict, norm: str, **more) -> Net:
    """Returns a net as `config` says.

    Args:
      config: of a study; see `configs/studies.py`.
      norm: a name in the example's `NORMS`.
      **more: further attributes of the net, or others than the configuration's.

    Raises:
      StudyError: there is no such norm, or it does not fit the net.
    """
    if norm not in NORMS:
        raise StudyError(f"there is no norm {norm!r}; there are {', '.join(NORMS)}")
    attributes = {
        "widths": tuple(config.widths),
        "options": norm_options(config),
    } | more
    if attributes.get("dense") and NORMS[norm].make_dense is not None:
        raise StudyError(
            f"the norm {norm} needs axes of space, and a net of dense layers has none; "
            "take it out of the sweep of dense nets"
        )
    groups = attributes["options"].num_groups
    if any(width % groups for width in attributes["widths"]):
        raise StudyError(
            f"config.num_groups must divide the widths {attributes['widths']}; "
            f"it is {groups}"
        )
    return Net(norm=norm, **attributes)


def norm_options(config: ml_collections.ConfigDict, **more) -> NormOptions:
    """Returns the options of all norms; `more` are others than the configuration's."""
    return NormOptions(
        axis_name=None,
        momentum=config.bn_momentum,
        dtype=jnp.dtype(jnp.float32),
        num_groups=config.num_groups,
        virtual_batch_size=config.batch_size,
        num_steps=config.num_steps,
    )._replace(**more)
