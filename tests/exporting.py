"""Programs exported for a batch of any size."""

import jax
from jax import export


def saved_and_loaded(step, variables, x, mask):
    """The program of step(variables, x, mask), for any even number of examples."""
    shape = export.symbolic_shape("2*b, " + ", ".join(map(str, x.shape[1:])))
    x = jax.ShapeDtypeStruct(shape, x.dtype)
    mask = None if mask is None else jax.ShapeDtypeStruct(shape, mask.dtype)
    variables = jax.eval_shape(lambda tree: tree, variables)
    saved = export.export(jax.jit(step))(variables, x, mask).serialize()
    return export.deserialize(saved)
