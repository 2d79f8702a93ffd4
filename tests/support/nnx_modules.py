"""How each module of `jaxnorm.nnx` is made and called like its Linen counterpart.

The Linen table, `family_modules.TABLE`, says the rest. Variables have Linen's names::

    params/scale    batch_stats/mean    params/layer_instance/kernel/scale
"""

import jax
from flax import nnx

import jaxnorm.nnx
from jaxnorm.nnx.batch_module import BatchModule
from support import family
from support.family_entries import WIDTH, program, settings_of
from support.family_modules import INSTEAD, TABLE, draw_variables

__all__ = ["TABLE", "WIDTH", "draw_variables", "program"]

SETTINGS = {
    name: settings_of(function, layer)
    for function, entry in family.TABLE.items()
    for name, layer in entry.layers.items()
}
WITH_MORE = tuple(INSTEAD)  # which return a pair
WRAPPERS = ("WeightNorm", "WeightStandardization", "SpectralNorm")
NAMES = [name for name in jaxnorm.nnx.__all__ if name in TABLE]
TRAINED = [n for n in NAMES if issubclass(getattr(jaxnorm.nnx, n), BatchModule)]


def build(name, **options):
    """A module in training mode, with the settings of the Linen table."""
    cls, rngs = getattr(jaxnorm.nnx, name), nnx.Rngs(0)
    if name in WRAPPERS:
        return cls(nnx.Linear(WIDTH, WIDTH, rngs=rngs), rngs=rngs, **options)
    if name == "BatchNormLSTMCell":
        return nnx.RNN(cls(WIDTH, WIDTH, max_steps=5, rngs=rngs, **options))
    if name == "UnitNorm":  # it has no variables
        return cls(**options)
    own = {"momentum": 0.5} if name in TRAINED else {}
    return cls(WIDTH, rngs=rngs, **(own | SETTINGS.get(name, {}) | options))


def call(name, module, x, mask=None):
    mask = {"mask": mask} if TABLE[name].masked else {}
    y = module(x, *TABLE[name].beside(x), **mask)
    return y[0] if name in WITH_MORE else y


def view_of(name):
    """The options of nnx.view for inference."""
    trains = name in (*TRAINED, "SpectralNorm", "BatchNormLSTMCell")
    return {"use_running_average": True} if trains else {}


def linen_name(path, variable):
    """The name of a variable in the tree of the Linen module."""
    match path:
        case ("scales" | "gains" as kind, within):
            return "/".join(("params/layer_instance", *within, kind[:-1]))
        case ("batch_stats", within):
            return "/".join(("batch_stats/layer_instance", *within))
        case ("reference", name):
            return f"reference/{name}"
    kind = "params" if isinstance(variable, nnx.Param) else "batch_stats"
    return "/".join((kind, *path))


def variables_of(module):
    """Variables by the name that Linen has for them."""
    flat = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState)))
    return {linen_name(path, variable): variable for path, variable in flat}


def values(module):
    return {name: variable[...] for name, variable in variables_of(module).items()}


def flatten(variables):
    """Arrays of a Linen tree by their path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]
    }


def load(module, variables):
    """Gives a module the variables of its Linen counterpart, all of them."""
    ours, given = variables_of(module), flatten(variables)
    assert set(given) == set(ours)
    for name, variable in ours.items():
        variable.set_value(given[name])
    return module
