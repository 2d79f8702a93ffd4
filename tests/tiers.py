"""Which cases of a parametrization the default tier runs."""

import pytest


def matrix(cases, often):
    """All cases, of which the default tier runs some, and the full tier the others.

    Args:
      cases: What to parametrize with: values, or tuples of values.
      often: Those that the default tier runs: representatives of the others.

    Returns:
      The cases in their order, the others marked `full`.
    """
    cases, often = list(cases), list(often)
    unknown = [case for case in often if case not in cases]
    assert not unknown, f"not among the cases: {unknown}"
    return [case if case in often else in_full(case) for case in cases]


def in_full(case, **options):
    """A case that the full tier runs."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.full, **options)
