"""The normalizers that random calls are drawn of, and what each takes."""

from collections.abc import Callable
from typing import NamedTuple

import oracles

import jaxnorm
from support.normalizers import TABLE


class Row(NamedTuple):
    """A normalizer, and what it takes; the fields are those of its entry."""

    function: Callable
    reference: Callable
    params: tuple[str, ...]
    state: str | None
    features: str
    options: tuple[str, ...]
    masked: bool
    takes_complex: bool
    powers: dict[str, int]


def row_of(name, entry):
    drawn = entry.drawn
    return Row(
        drawn.function or getattr(jaxnorm, name),
        drawn.reference or getattr(oracles, name, None),
        tuple(entry.params) if drawn.params is None else drawn.params,
        entry.state,
        drawn.features,
        drawn.options,
        entry.masked,
        entry.takes_complex,
        entry.powers,
    )


ROWS = {name: row_of(name, entry) for name, entry in TABLE.items() if entry.drawn}
