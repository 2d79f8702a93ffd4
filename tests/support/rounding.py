"""How far rounding may carry a result from the oracle's: one tolerance for all.

What this library promises of its arithmetic, of which u is the relative spacing of the
dtype that statistics are computed in (float32 or wider):

* A sum of n numbers is off by some u times the sum of their magnitudes; one of equal
  numbers, each addition of which may be rounded the same way, by some u sqrt(n).
* A variance is the mean square of `x - shift` less the square of its mean, and so off
  by some u (var + 4 |mean - shift|^2). The shift is the running mean in one pass, and
  the mean itself, rounded, in two passes and in normalizers of each example.
* The mean is kept as `shift + delta`, and so is off by u (|mean - shift| + std) in
  what is normalized, however large it is.
* A product with a parameter is off by u of it.
* So is the momentum of running statistics, and 1 less it as much.
* Results are rounded once, to their dtype.

What these do to a result depends on the normalizer and on the data. So nobody says how
much: the oracle is computed again, with moments and parameters that are off by so much
in random directions, and how far its result goes is what rounding may do, times FACTOR.
Where that is no small part of the result (the variance of two numbers next to each
other far from the shift, say), nothing is promised and nothing compared.
"""

import itertools
from typing import NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np
import oracles
from oracles import parts

FACTOR = 16  # how many roundings there are one after the other, about
TRIALS = 4
LOST = 0.02  # of a result; from there on it says nothing
STEPS = (2e-3, 1e-3, 5e-4)  # of the differences that are the oracle's derivative


class Arithmetic(NamedTuple):
    """The dtype that statistics are computed in, and what x is shifted by first."""

    dtype: np.dtype
    shift: np.ndarray | None  # of the rank of x; None: the mean
    before: np.dtype | None = None  # rounded to before the product with scale

    @property
    def unit(self):
        return float(jnp.finfo(self.dtype).eps)

    def noise(self, rng, count, mean, var, unit):
        """What is added to a mean (or None, for moments about 0) and a variance.

        `unit` is +-u. The oracle's own errors are in it, which are seen in float64.
        """
        smallest = np.sign(unit) * float(jnp.finfo(self.dtype).tiny)  # others are 0
        if mean is None:
            return None, _signs(rng, var) * (unit * var + smallest)
        far, own = self._distance(count, mean), 4 * np.finfo(float).eps * np.abs(mean)
        mean_error = unit * (far + np.sqrt(var)) + np.sign(unit) * own
        var_error = unit * (var + 4 * far**2) + smallest + np.sign(unit) * own**2
        return _signs(rng, var) * mean_error, _signs(rng, var) * var_error

    def _distance(self, count, mean):
        rounded = self.unit * np.sqrt(np.maximum(count, 4)) * np.abs(mean)
        if self.shift is None:
            return rounded
        try:
            far = np.abs(mean - self.shift)
        except ValueError:  # the part of the features that has no running mean
            return rounded
        more = tuple(np.flatnonzero(np.array(far.shape) > mean.shape))
        return np.maximum(rounded, far.max(more, keepdims=True, initial=0))


class Held(NamedTuple):
    """The function of some arguments, with moments that are others than theirs."""

    function: object
    change: object  # (index, count, mean, var) -> the three

    def __call__(self, *arguments):
        indices = itertools.count()

        def observed(*moments):
            return self.change(next(indices), *moments)

        with mock.patch.object(parts, "observed", observed):
            return self.function(*arguments)


class Roundings:
    """A function of the oracle at one point, beside what rounding makes of it.

    Attributes:
      exact: Its results there.
      lost: For each result, of which elements nothing can be said.
    """

    def __init__(self, function, arguments, arithmetic, besides=0.0, seed=0):
        taken = []

        def record(_, *moments):
            taken.append(moments)
            return moments

        self.arguments, self.arithmetic = arguments, arithmetic
        self.function = function
        self.exact = Held(function, record)(*arguments)
        self.frozen = Held(function, lambda i, *_: taken[i])
        # Each kind by itself, since they might cancel.
        self.rounded = {kind: [] for kind in ("means", "variances", "parameters")}
        pairs = [], []
        for trial in range(TRIALS):
            # Each second one has the opposite errors: variances may stop at 0.
            rng = np.random.default_rng((seed, trial // 2))
            unit = arithmetic.unit * (-1) ** trial
            errors = [arithmetic.noise(rng, *own, unit) for own in taken]
            means, variances = zip(*errors, strict=True) if errors else ((), ())
            if trial < 2:
                pairs[0].append(_add_to_moments(means, None))
                pairs[1].append(_add_to_moments(None, variances))
            off = [1 + unit * _signs(rng, p) for p in arguments[1:]]
            for kind, changed in (
                ("means", Held(function, _add_to_moments(means, None))),
                ("variances", Held(function, _add_to_moments(None, variances))),
                ("parameters", Held(_scaled(function, off), _as_they_are)),
            ):
                self.rounded[kind].append(changed)
        groups = [*self.rounded.values()]
        if len(taken) > 1:  # each of the moments by itself, since they might cancel
            alone = [
                [Held(function, _alone(index, change)) for change in changes]
                for changes in pairs
                for index in range(len(taken))
            ]
            groups = [self.rounded["parameters"], *alone]
        others = [[f(*arguments) for f in group] for group in groups]
        self.reach, self.whole, self.lost = [], [], []
        for i, own in enumerate(self.exact):
            reach = sum(
                np.max([_far(result[i], own) for result in group], 0)
                for group in others
            )
            size = np.abs(own)
            whole = np.max(size, initial=besides, where=np.isfinite(size))
            self.reach.append(reach)
            self.whole.append(whole)
            self.lost.append(~np.isfinite(own) | (reach > LOST * whole))

    def excess(self, i, value, but=False):
        """The largest error of result i `but` somewhere, in units of the allowed."""
        kind, exact = jnp.finfo(value.dtype), self.exact[i]
        size, before = np.abs(exact), self.arithmetic.before
        limit = FACTOR * (self.arithmetic.unit * self.whole[i] + self.reach[i])
        kinds = (kind,) if before is None else (kind, jnp.finfo(before))
        for own in kinds:
            limit = limit + float(own.eps) * size + _smallest(own)
        value = oracles.wide(value)
        assert value.shape == exact.shape, (value.shape, exact.shape)
        with np.errstate(all="ignore"):
            error = np.abs(value - exact) / limit
        out = self.lost[i] | (size > float(kind.max) / 2) | but
        error = np.where(np.isnan(error), np.inf, error)
        return np.max(error, initial=0.0, where=~out)

    def excess_of_slope(self, i, gradient, weight, unit, rng):
        """The same of the gradient of sum(weight y) in argument i, along a line.

        0 where that says nothing. `unit` is the size of what the argument is moved by.
        """
        argument = self.arguments[i]
        direction = unit * rng.normal(size=np.shape(argument))
        if np.iscomplexobj(argument):
            direction = direction + 1j * unit * rng.normal(size=np.shape(argument))
        directions = [None] * len(self.arguments)
        directions[i] = direction
        w = np.conj(oracles.wide(weight))

        def slope(function):
            both = derivative(function, self.arguments, directions)
            return (np.where(w == 0, 0, value) for value in both)

        def largest(slope):
            return np.sum(np.abs(w)) * np.max(np.abs(slope), initial=0.0)

        each, error = slope(self.function)
        frozen, _ = slope(self.frozen)  # before what cancels
        # Across a kink, or with steps that are too long, nothing is known of it.
        unknown = error > 0.01 * np.abs(each)
        least = np.maximum(np.abs(each), np.abs(frozen))
        error = np.where(unknown, np.maximum(least, error), error)
        error = np.sum(np.abs(w) * error)
        expected = np.sum((w * each).real)
        size, reach = largest(each) + largest(frozen), 0.0
        for group in self.rounded.values():
            others = [np.sum((w * next(slope(f))).real) for f in group[:2]]
            reach += np.max(np.abs(np.subtract(others, expected)))
        if not (error <= LOST * largest(each) and reach <= LOST * size):  # or NaN
            return 0.0
        kind, own = jnp.finfo(gradient.dtype), oracles.wide(gradient)
        if not np.all(np.isfinite(own)):  # float16 ends at 65504
            beyond = largest(each) > float(kind.max) / 2 * np.min(np.abs(direction))
            return 0.0 if beyond else np.inf
        rounding = float(kind.eps) * np.sum(np.abs(own * direction))
        # Each term of a sum may have been below the smallest number.
        terms = max(1, np.size(self.exact[0]) // max(1, np.size(argument)))
        rounding += terms * _smallest(kind) * np.sum(np.abs(direction))
        limit = FACTOR * (self.arithmetic.unit * size + reach) + rounding
        limit += 4 * error  # of the differences
        difference = abs(np.sum(np.real(own * direction)) - expected)
        return difference / limit if difference > 0 else 0.0


def derivative(function, arguments, directions):
    """Of a function along directions (None: held), of each element, and its error.

    Across a kink that is much nearer than the steps, differences of all steps agree on
    the mean of both slopes. That the slopes differ is seen from the element itself.
    """

    def at(move):
        pairs = zip(arguments, directions, strict=True)
        moved = (a if d is None else oracles.wide(a) + move * d for a, d in pairs)
        return function(*moved)[0]

    with np.errstate(all="ignore"):  # what is lost may be infinite
        own = at(0)
        sides = [(at(step), at(-step), step) for step in STEPS]
        long, middle, short = ((a - b) / (2 * step) for a, b, step in sides)
        coarse, fine = (4 * middle - long) / 3, (4 * short - middle) / 3
        # Slope after less slope before: step and step**3 times derivatives cancel.
        long, middle, short = ((a - own + (b - own)) / step for a, b, step in sides)
        kink = (16 * short - 10 * middle + long) / 7
        rounding = 4 * np.finfo(float).eps * np.abs(own) / STEPS[-1]
        return fine, np.abs(fine - coarse) + np.abs(kink) + rounding


def _smallest(kind):
    """The smallest number, as XLA for CPUs has no subnormal ones in float32."""
    return max(float(kind.smallest_subnormal), float(jnp.finfo(np.float32).tiny))


def _as_they_are(_, *moments):
    return moments


def _signs(rng, value):
    return rng.choice([-1.0, 1.0], np.shape(value))


def _scaled(function, factors):
    def scaled(x, *params):
        pairs = zip(params, factors, strict=True)
        return function(x, *(oracles.wide(p) * factor for p, factor in pairs))

    return scaled


def _add_to_moments(means, variances):
    """Returns a change of moments: adds to their means, or to their variances."""

    def change(index, count, mean, var):
        if means and mean is not None:
            mean = mean + means[index]
        if variances:
            var = np.maximum(var + variances[index], 0)
        return count, mean, var

    return change


def _alone(chosen, change):
    """A change of one moment only."""

    def changed(index, *moments):
        return change(index, *moments) if index == chosen else moments

    return changed


def _far(a, b):
    with np.errstate(invalid="ignore"):
        far = np.abs(a - b)
    return np.where(np.isfinite(far), far, np.inf)
