"""Which cases of a parametrization the default tier runs.

It runs representatives: a case for each way through the code, and for each value of
each axis of a matrix. The full tier runs the others.
"""

import pytest


def matrix(cases, often):
    """All cases in their order; those that are not among `often` are marked `full`."""
    cases, often = list(cases), list(often)
    unknown = [case for case in often if case not in cases]
    assert not unknown, f"not among the cases: {unknown}"
    return [case if case in often else in_full(case) for case in cases]


def in_full(case, **options):
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full, **options)


def diagonal(*axes):
    """Cases of the product of axes in which each value of each axis occurs."""
    axes = [list(axis) for axis in axes]
    longest = max(map(len, axes))
    return [tuple(axis[i % len(axis)] for axis in axes) for i in range(longest)]
