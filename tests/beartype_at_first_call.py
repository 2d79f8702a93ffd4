"""The checker of annotations, which makes its checks at the first call of a function.

Making them takes as long as importing all else of the package, and every process of
the tests imports it; most functions are never called with the checks on.
"""

import functools

import beartype as checker


def beartype(function):
    @functools.cache
    def checked():
        return checker.beartype(function)

    @functools.wraps(function)
    def check(*args, **kwargs):
        return checked()(*args, **kwargs)

    return check
