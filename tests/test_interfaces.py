"""The interfaces of JAX and Flax that are not in their documentation.

A new version may rename them without a word. Each stands here, with the file that needs
it, so that a failure tells what has gone.
"""

import functools
import importlib

import jax
import pytest
from support import family
from support.tiers import matrix

import jaxnorm

# Module, attribute, and the file of jaxnorm that needs it.
UNDOCUMENTED = [
    ("flax.linen.module", "InterceptorContext", "linen/freezing.py, for its type"),
    ("flax.nnx.filterlib", "Filter", "nnx/wrapping.py, for its type"),
    ("flax.typing", "Initializer", "modules, for the type of their initializers"),
    ("jax.core", "Tracer", "to tell what is known while tracing"),
]


@pytest.mark.parametrize(
    ("module", "name", "needed_by"), UNDOCUMENTED, ids=lambda x: x.split(",")[0]
)
def test_an_undocumented_interface_still_exists(module, name, needed_by):
    found = hasattr(importlib.import_module(module), name)
    assert found, f"{module} has no {name} any more: {needed_by}"


class TypeWithoutManualAxes:
    """The type of a value in a JAX that has renamed what tells of mapped axes."""

    def __init__(self, value):
        self._type = typeof(value)

    def __getattr__(self, name):
        if name in ("manual_axis_type", "vma"):
            raise AttributeError(f"types have no {name} any more")
        return getattr(self._type, name)


typeof = jax.typeof


@pytest.mark.parametrize("name", matrix(family.TABLE, often=family.KINDS[::3]))
def test_where_nothing_is_mapped_types_are_not_asked_for_mapped_axes(name, monkeypatch):
    entry = family.TABLE[name]
    arguments = *family.draw_arguments(entry), family.draw_mask(entry)

    def loss(x, params, state, mask):
        y, new = entry.call(x, params, state, mask)
        return jax.numpy.sum(y), new

    monkeypatch.setattr(jax, "typeof", TypeWithoutManualAxes)
    jax.eval_shape(jax.grad(loss, (0, 1), has_aux=True), *arguments)


def test_where_an_axis_is_mapped_types_are_asked(monkeypatch):
    """Or else the test above would find nothing."""
    x, params, _ = family.draw_arguments(family.TABLE["layer_norm"])
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    norm = functools.partial(jaxnorm.layer_norm, **params)
    mapped = jax.shard_map(norm, mesh=mesh, in_specs=rows, out_specs=rows)
    monkeypatch.setattr(jax, "typeof", TypeWithoutManualAxes)
    with pytest.raises(AttributeError, match="manual_axis_type"):
        jax.eval_shape(mapped, x)
