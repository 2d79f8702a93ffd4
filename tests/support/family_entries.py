"""What an entry for a module is, and how it is made from that of its function.

Each module takes the x of tests/support/family.py, and gives a y of the same shape:
`entry.apply(module, variables, x, mask, train)`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.extend import core
from jax.interpreters import partial_eval

import jaxnorm
from jaxnorm._layers.initializers import MadeInitializer
from jaxnorm.linen.module import BatchModule
from support.normalizers import TABLE as FUNCTIONS
from support.normalizers.entry import FEATURES
from support.normalizers.states import draw_state

WIDTH = FEATURES  # of wrapped layers and of the cell as well
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
    beside: Callable[[Any], tuple] = lambda x: ()  # arguments after x
    updates: bool = False  # takes update_stats
    masked: bool = True
    synchronizes: bool = False  # takes axis_name
    counts: bool = False  # momentum may be a function of the number of updates
    integers: bool | None = True  # whether it takes them; None: the wrapped layer says
    rounds_once: bool = True  # in half precision

    def init(self, module, key, x):
        return module.init(key, x, *self.beside(x), **self.keywords(None, True))

    def apply(self, module, variables, x, mask=None, train=True, **options):
        return module.apply(
            variables, x, *self.beside(x), **self.keywords(mask, train), **options
        )

    def keywords(self, mask, train):
        keywords = {"update_stats": train} if self.updates else {}
        return keywords | ({"mask": mask} if self.masked else {})


def settings_of(function, layer):
    """The options with which a module computes what the call of its function does."""
    if layer.settings is not None:
        return layer.settings
    return FUNCTIONS[function].options


def of_function(cls, function, layer):
    """An entry for a module whose variables are the arguments of a function."""
    entry, trains = FUNCTIONS[function], issubclass(cls, BatchModule)
    state = draw_state(entry, np.random.default_rng(0), None)
    stats = state._asdict() if entry.state else {}
    tree = {f"params/{k}": f"float32 {p.shape}" for k, p in entry.params.items()}
    tree |= {f"batch_stats/{k}": f"float32 {v.shape}" for k, v in stats.items()}

    def build(train, **options):
        own = {"use_running_average": not train, "momentum": 0.5} if trains else {}
        return cls(**(own | settings_of(function, layer) | options))

    def compute(variables, x, mask, **options):
        before = type(state)(**variables["batch_stats"]) if entry.state else ()
        y, new = entry.call(x, variables["params"], before, mask, **options)
        return y, collect(new)

    def collect(state):
        return {"batch_stats": state._asdict()} if entry.state else {}

    parameters = inspect.signature(getattr(jaxnorm, function)).parameters
    return Entry(
        build,
        tree,
        compute,
        function,
        collect,
        beside=lambda x: tuple(entry.beside(x).values()),
        masked=entry.masked,
        synchronizes=bool(entry.state) or "axis_name" in parameters,
        counts=entry.state not in (None, "stream"),
        integers=layer.integers,
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
