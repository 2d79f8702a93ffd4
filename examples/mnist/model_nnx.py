"""The network of `model.py` in NNX, with the interface of a Linen model."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from norms import NORMS, NormOptions
from norms_nnx import NORMS as NNX_NORMS

import jaxnorm.nnx

_COLLECTIONS: dict[str, type[nnx.Variable]] = {
    "params": nnx.Param,
    "batch_stats": nnx.BatchStat,
    "reference": jaxnorm.nnx.Reference,
    "batch_moments": jaxnorm.nnx.BatchMoment,
}


class Hidden(nnx.Module):
    """A layer with its normalizer and its activation; see `model.CNN`."""

    def __init__(
        self,
        layer: nnx.Module,
        features: int,
        norm: str,
        options: NormOptions,
        placement: str,
        rngs: nnx.Rngs,
    ):
        chosen = NNX_NORMS[norm]
        make = chosen.make
        if isinstance(layer, nnx.Linear):
            make = chosen.make_dense or make
        self.layer = chosen.wrap(layer, rngs)
        self.norm = nnx.data(make(options, features, rngs))
        self.masked = chosen.masked
        self.activates = NORMS[norm].activates
        self.placement = placement

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the activations; `mask` is False for padding."""
        x = self.layer(x)
        if self.activates:
            return self._normalize(x, mask)
        if self.placement == "before_activation":
            return nnx.relu(self._normalize(x, mask))
        return self._normalize(nnx.relu(x), mask)

    def _normalize(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        if self.norm is None:
            return x
        if not self.masked:
            return self.norm(x)
        return self.norm(x, mask=mask.reshape((-1,) + (1,) * (x.ndim - 1)))


class CNN(nnx.Module):
    """Two convolutions and two dense layers, with normalized hidden layers.

    The arguments are the attributes of `model.CNN`, with the name of the normalizer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: str,
        norm_options: NormOptions,
        norm_placement: str,
        dropout_rate: float,
        dtype: jnp.dtype,
        *,
        rngs: nnx.Rngs,
    ):
        first, second, third = widths
        options = {"dtype": dtype, "rngs": rngs}
        layers = (
            nnx.Conv(1, first, (3, 3), padding="VALID", **options),
            nnx.Conv(first, second, (3, 3), padding="VALID", **options),
            nnx.Linear(12 * 12 * second, third, **options),
        )
        self.hidden = nnx.List(
            Hidden(layer, width, norm, norm_options, norm_placement, rngs)
            for layer, width in zip(layers, widths, strict=True)
        )
        self.output = nnx.Linear(third, 10, **options)
        self.dropout_rate = dropout_rate
        self.dtype = dtype

    def __call__(
        self,
        images: jax.Array,
        mask: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
    ) -> jax.Array:
        """Returns logits; the arguments are those of `model.CNN`."""
        if mask is None:
            mask = jnp.ones(images.shape[:1], bool)
        dropout = nnx.Dropout(self.dropout_rate, deterministic=False)

        def drop(x: jax.Array, layer: int) -> jax.Array:
            if dropout_keys is None or not self.dropout_rate:
                return x
            keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, layer)
            return jax.vmap(lambda row, key: dropout(row, rngs=key))(x, keys)

        x = (images.astype(jnp.float32) / 255).astype(self.dtype)
        x = self.hidden[0](x, mask)
        x = self.hidden[1](x, mask)
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = drop(x.reshape((x.shape[0], -1)), 0)
        x = drop(self.hidden[2](x, mask), 1)
        return self.output(x).astype(jnp.float32)


class Functional:
    """Gives an NNX model the `init` and `apply` of a Linen model.

    So the rest of the example works for both.

    Args:
      make: creates the model.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self._graphdef, abstract = nnx.split(
            nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Variable
        )
        self._variables = nnx.to_flat_state(abstract)

    def init(self, key: jax.Array, images: Any, *, train: bool) -> dict[str, Any]:
        """Returns the initial variables, by collection."""
        del images, train
        return self._collect(self._make(nnx.Rngs(key)), ("params", "batch_stats"))

    def apply(
        self,
        variables: dict[str, Any],
        images: jax.Array,
        *,
        train: bool,
        mutable: Sequence[str] = (),
        **inputs: Any,
    ) -> Any:
        """Returns logits; and, if `mutable` names collections, their new variables."""
        state = nnx.from_flat_state(self._fill(variables, mutable))
        model = nnx.merge(self._graphdef, state)
        (model.train if train else model.eval)()
        model.set_attributes(
            collect_reference="reference" in mutable,
            collect_moments="batch_moments" in mutable,
            raise_if_not_found=False,
        )
        logits = model(images, **inputs)
        return (logits, self._collect(model, mutable)) if mutable else logits

    def _fill(self, variables: dict[str, Any], mutable: Sequence[str]) -> Iterator:
        for path, abstract in self._variables:
            collection, *names = _address(path, abstract)
            value = variables.get(collection)
            if value is None and collection in mutable:  # this call will collect it
                value = jnp.full(abstract.shape, jnp.nan, abstract.dtype)
            else:
                for name in names:
                    value = value[name]
            yield path, abstract.copy(jnp.asarray(value))

    def _collect(self, model: nnx.Module, names: Sequence[str]) -> dict[str, Any]:
        flat = {
            _address(path, variable): variable[...]
            for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Variable))
        }
        return traverse_util.unflatten_dict(
            {address: value for address, value in flat.items() if address[0] in names}
        )


def _address(path: tuple[Any, ...], variable: nnx.Variable) -> tuple[str, ...]:
    """Returns the collection of a variable, and its names there."""
    (collection,) = (
        n for n, kind in _COLLECTIONS.items() if isinstance(variable, kind)
    )
    # Wrappers keep variables of a parameter under its path.
    names = ["/".join(n) if isinstance(n, tuple) else str(n) for n in path]
    if collection == "batch_moments":  # layers keep them in an attribute of that name
        names.remove("batch_moments")
    return collection, *names
