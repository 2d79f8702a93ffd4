"""What an entry for a module is, and how it is made from a function's.

Each module takes the x of tests/support/family.py, and gives a y of the same shape:
`entry.apply(module, variables, x, mask, train)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jax.extend import core
from jax.interpreters import partial_eval

import jaxnorm
from jaxnorm._layers.initializers import MadeInitializer
from jaxnorm.linen.module import BatchModule
from support import family

WIDTH = family.FEATURES  # of wrapped layers and of the cell as well
COLLECTIONS = ("batch_stats", "reference")


DENSE = {
    "params/layer_instance/kernel": f"float32 {(WIDTH, WIDTH)}",
    "params/layer_instance/bias": f"float32 {(WIDTH,)}",
}


class Entry(NamedTuple):
    """A module, and what the tests have to know of it."""

    build: Callable[..., nn.Module]  # (train, **options)
    tree: dict[str, str]  # path of each variable: its dtype and shape
    compute: Callable[..., Any] | None = None  # (variables, x, mask) -> y, collections
    function: str | None = None  # in the other table, if its arguments are variables
    collect: Callable[[Any], dict] = lambda state: {}  # state -> collections
    extra: tuple[Any, ...] = ()  # arguments after x
    updates: bool = False  # takes update_stats
    masked: bool = True
    synchronizes: bool = False  # takes axis_name
    counts: bool = False  # momentum may be a function of the number of updates
    integers: bool | None = True  # whether it takes them; None: the wrapped layer says
    rounds_once: bool = True  # in half precision

    def apply(self, module, variables, x, mask=None, train=True, **options):
        return module.apply(
            variables, x, *self.extra, **self.keywords(mask, train), **options
        )

    def keywords(self, mask, train):
        keywords = {"update_stats": train} if self.updates else {}
        return keywords | ({"mask": mask} if self.masked else {})


def of_function(cls, function, tree, *, settings=None, restore=None, **fields):
    """An entry for a module whose variables are the arguments of a function.

    restore makes the state of the function from what is in `batch_stats`.
    """
    trains = issubclass(cls, BatchModule)

    def build(train, **options):
        own = {"use_running_average": not train, "momentum": 0.5} if trains else {}
        return cls(**(own | (settings or {}) | options))

    def compute(variables, x, mask, **options):
        state = restore(**variables["batch_stats"]) if restore else ()
        call = family.TABLE[function].call
        y, new = call(x, variables["params"], state, mask, **options)
        return y, entry.collect(new)

    entry = Entry(build, tree, compute, function, **fields)
    return entry


def of_batch(cls, function, tree, restore=jaxnorm.BatchStats, **fields):
    return of_function(
        cls,
        function,
        tree,
        restore=restore,
        synchronizes=True,
        counts=True,
        collect=lambda state: {"batch_stats": state._asdict()},
        **fields,
    )


def of_weight(cls, tree, normalize, **fields):
    """An entry for a wrapper, here of a dense layer."""

    def build(train, dtype=None):
        del train
        kernel_init = MadeInitializer(nn.initializers.lecun_normal)  # Dense's, pickled
        return cls(nn.Dense(WIDTH, kernel_init=kernel_init, dtype=dtype), dtype=dtype)

    def compute(variables, x, mask):
        del mask
        layer = variables["params"]["layer_instance"]
        kernel, collections = normalize(layer["kernel"], variables)
        return nn.Dense(WIDTH).apply({"params": layer | {"kernel": kernel}}, x), (
            collections
        )

    fields |= {"masked": False, "integers": None, "rounds_once": False}
    return Entry(build, DENSE | tree, compute, **fields)


def per_feature(*paths, shape=(WIDTH,)):
    return {path: f"float32 {shape}" for path in paths}


def program(function, *arguments):
    """What is traced and needed for the results, as text; in an order of its own."""
    closed = jax.make_jaxpr(function)(*arguments)
    needed = [True] * len(closed.out_avals)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, needed)
    makers = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    read, ordered = set(), {}  # variables; equations by their identity

    def visit(var):
        if isinstance(var, core.Literal) or var in read:
            return
        read.add(var)
        if var in makers:
            for operand in makers[var].invars:
                visit(operand)
            ordered[id(makers[var])] = makers[var]

    for var in jaxpr.outvars:
        visit(var)
    constants = {
        var: value
        for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
        if var in read
    }
    jaxpr = jaxpr.replace(constvars=list(constants), eqns=list(ordered.values()))
    return f"{jaxpr} {list(constants.values())}"
