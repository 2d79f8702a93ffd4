"""What the tests know of a normalizer, said once for all of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

SHAPE = (4, 6, 4)  # of x: examples, space, features; as good for a kernel
FEATURES = SHAPE[-1]
STEPS = 3  # of recurrent batch norm, of which the middle one is called


class Param(NamedTuple):
    """What a parameter is drawn from."""

    loc: float
    shape: tuple[int, ...] = (FEATURES,)
    std: float = 0.2


class Drawn(NamedTuple):
    """What random calls of a normalizer are drawn from; see draws.py."""

    features: str = "any"  # axes: also "no batch", "one" of these, or the "last"
    options: tuple[str, ...] = ()  # its own
    params: tuple[str, ...] | None = None  # where not those of the entry
    function: Callable | None = None  # where not that of its name
    reference: Callable | None = None  # where not the oracle of its name


class Layer(NamedTuple):
    """A module, of one name in each API."""

    settings: dict[str, Any] | None = None  # where not the options of the function
    integers: bool = False  # whether it takes them, as Flax's layers do


class Entry(NamedTuple):
    """A function, and what the tests have to know of it.

    All are called in the same way, in training unless asked otherwise::

        y, new_state = call(x, params, state, mask, **options)
    """

    call: Callable[..., tuple[Any, Any]]
    params: dict[str, Param]
    state: str | None = None  # its kind; see states.py
    options: dict[str, Any] = {}  # noqa: RUF012  (those that a call has)
    beside: Callable[[Any], dict[str, Any]] = lambda x: {}  # arguments after x
    powers: dict[str, int] = {}  # noqa: RUF012  (of the std of x, that they grow with)
    masked: bool = True
    takes_complex: bool = True
    inference: bool = False  # use_running_average is an option of `call`
    own_hessian: bool = True  # the derivative of the gradient is that of the function
    own_gradient: bool = True  # and the gradient, in training too
    drawn: Drawn | None = Drawn()
    layers: dict[str, Layer] = {}  # noqa: RUF012  (by the name of the class)


SCALE, BIAS = Param(1.0), Param(0.0)
AFFINE = {"scale": SCALE, "bias": BIAS}


def of_batch(function, *, params=AFFINE, state="stats", beside=None, **fields):
    """An entry for one with running statistics, by default those of batch norm."""
    fixed, beside = fields.get("options", {}), beside or (lambda x: {})

    def call(x, params, state, mask, use_running_average=False, **options):
        options |= {"use_running_average": use_running_average, "momentum": 0.5}
        given = params | beside(x) | fixed | options
        return function(x, state, mask=mask, **given)

    return Entry(call, params, state, beside=beside, inference=True, **fields)


def of_example(function, *, params=AFFINE, beside=None, masked=True, **fields):
    """An entry for one without state."""
    fixed, beside = fields.get("options", {}), beside or (lambda x: {})

    def call(x, params, state, mask, **options):
        options |= {"mask": mask} if masked else {}
        return function(x, **params, **beside(x), **(fixed | options)), state

    return Entry(call, params, beside=beside, masked=masked, **fields)


def of_single_values(norm):
    """Some of the drawn inputs have one value for each mean."""
    return functools.partial(norm, allow_single_value=True)
