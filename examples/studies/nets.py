"""Small plain networks with any normalizer in their hidden layers."""

import digits  # noqa: F401  (adds the MNIST example to the path)
import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from norms import NORMS, NormOptions
from study import StudyError


class Net(nn.Module):
    """Layers with norm and relu, a mean over positions, and a dense layer of logits.

    If the collection `intermediates` is mutable, it gets the inputs of the relus as
    `activation_inputs`, a tuple with an array for each layer.

    Attributes:
      widths: features of the hidden layers.
      norm: a name in `NORMS` of the MNIST example.
      options: options for the norm.
      dense: whether hidden layers are dense. Otherwise they are 3 x 3 convolutions, and
        every second one halves the image.
      placement: "before_activation" or "after_activation".
      init_scale: factor of the standard deviation sqrt(2 / inputs) of the initial
        weights; may be traced.
      dropout_rate: fraction of each hidden layer's output to drop; may be traced. None
        compiles no dropout.
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
          mask: (N,) bool, False for padding, which affects no statistic; None means no
            padding.
          dropout_key: random key; None means no dropout.
          train: whether to normalize by the statistics of this batch.

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
    """Returns the 3 x 3 patch around each position, with zeros beyond the border.

    A convolution is a dense layer over these patches. On a CPU, this trains these small
    networks in a fifth of the time of `flax.linen.Conv`, with one seed or several.

    Args:
      x: (N, H, W, C).
      stride: stride of the positions.

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
    """Returns the network that `config` describes.

    Args:
      config: configuration of a study; see `configs/studies.py`.
      norm: a name in `NORMS` of the MNIST example.
      **more: other attributes of the network, which override the configuration.

    Raises:
      StudyError: the norm does not exist, or does not fit the network.
    """
    if norm not in NORMS:
        raise StudyError(f"there is no norm {norm!r}; there are {', '.join(NORMS)}")
    attributes = {
        "widths": tuple(config.widths),
        "options": norm_options(config),
    } | more
    if attributes.get("dense") and NORMS[norm].make_dense is not None:
        raise StudyError(
            f"the norm {norm} needs spatial axes, and a network of dense layers has "
            "none; remove it from the sweep of dense networks"
        )
    groups = attributes["options"].num_groups
    if any(width % groups for width in attributes["widths"]):
        raise StudyError(
            f"config.num_groups must divide the widths {attributes['widths']}; "
            f"it is {groups}"
        )
    return Net(norm=norm, **attributes)


def norm_options(config: ml_collections.ConfigDict, **more) -> NormOptions:
    """Returns the options of all norms; `more` overrides the configuration."""
    return NormOptions(
        axis_name=None,
        momentum=config.bn_momentum,
        dtype=jnp.dtype(jnp.float32),
        num_groups=config.num_groups,
        virtual_batch_size=config.batch_size,
        num_steps=config.num_steps,
    )._replace(**more)
