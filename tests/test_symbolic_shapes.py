"""Programs exported once for every size of the batch and of space."""

import jax
import pytest
from jax import export
from support.family import KINDS, TABLE, close, draw_arguments, draw_mask, gradients_of
from support.tiers import matrix

SYMBOLIC = "2*b, s, 4"  # an even number of examples, for ghosts


def with_symbols(value, shape):
    """What stands for an array in export; symbols along its axes that are not 1."""
    sizes = zip(shape, value.shape, strict=True)
    shape = tuple(symbol if size > 1 else 1 for symbol, size in sizes)
    return jax.ShapeDtypeStruct(shape, value.dtype)


def export_step(name, mask):
    x, params, state = draw_arguments(TABLE[name])
    shape = export.symbolic_shape(SYMBOLIC)
    kinds = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, state)
    )
    step = jax.jit(gradients_of(name))
    if mask is not None:
        mask = with_symbols(mask, shape)
    return export.export(step)(with_symbols(x, shape), *kinds, mask)


@pytest.mark.parametrize(
    "name",
    matrix(TABLE, often=(*KINDS[::3], "batch_renorm", "group_norm")),
)
def test_every_function_is_exported(name, as_users_run_it):
    export_step(name, draw_mask(TABLE[name]))


# Often one with the rule of the core, and with a mask of each element.
@pytest.mark.parametrize(
    ("name", "every_mask"),
    matrix(
        [("group_norm", False), *((name, True) for name in TABLE)],
        often=[("group_norm", False)],
    ),
)
def test_what_is_exported_computes_the_same(name, every_mask, as_users_run_it):
    """With a mask of each element, of examples, of features, or none."""
    arguments = draw_arguments(TABLE[name])
    mask = draw_mask(TABLE[name])
    masks = [None] if mask is None else [mask, mask[:, :1, :1], mask[:1, :1], None]
    for part in masks if every_mask else masks[:1]:
        actual = jax.jit(export_step(name, part).call)(*arguments, part)
        close(actual, jax.jit(gradients_of(name))(*arguments, part), 2e-5)
