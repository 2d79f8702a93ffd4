"""Programs exported for a batch of any size."""

import jax
from jax import export

from support.family import TABLE, close, draw_arguments, draw_mask


def saved_and_loaded(step, variables, x, mask):
    """The program of step(variables, x, mask), for any even number of examples."""
    shape = export.symbolic_shape("2*b, " + ", ".join(map(str, x.shape[1:])))
    x = jax.ShapeDtypeStruct(shape, x.dtype)
    mask = None if mask is None else jax.ShapeDtypeStruct(shape, mask.dtype)
    variables = jax.eval_shape(lambda tree: tree, variables)
    saved = export.export(jax.jit(step))(variables, x, mask).serialize()
    return export.deserialize(saved)


def check_export(steps, draw_variables, masked):
    """Exported, saved and loaded again, each step of a module computes the same."""
    x, *_ = draw_arguments(TABLE["rms_norm"])
    mask = draw_mask(TABLE["rms_norm"]) if masked else None
    variables = draw_variables(x)
    for step in steps:
        program = saved_and_loaded(step, variables, x, mask)
        actual = jax.jit(program.call)(variables, x, mask)
        close(actual, jax.jit(step)(variables, x, mask), 2e-5)
