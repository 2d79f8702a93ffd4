"""A call of a normalizer, drawn at random: which one, and everything that it is given.

All that a draw has follows from its number, so that each can be had again alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxnorm
from support.draw_arrays import Scales, draw_mask, draw_parameter, draw_x, hide
from support.draw_normalizers import ROWS
from support.draw_options import draw_axes, draw_option, draw_shape
from support.draw_stats import as_state, draw_stats
from support.rounding import Arithmetic

OURS_ALONE = ("round_before_scale",)  # the oracle does not round
STREAM = ("feature_axes", "mask", "max_count")  # what its moments depend on
NEEDED = ("scale", "bias", "threshold")  # None where not given: some have no default


class Draw(NamedTuple):
    """A call, in arrays that both sides see."""

    seed: int
    name: str
    x: np.ndarray
    params: dict  # of those that are given
    state: tuple  # the arrays of it
    mask: np.ndarray | None
    weight: np.ndarray  # of the sum of y that is differentiated
    options: dict  # of both sides
    ours_alone: dict  # options that the oracle knows nothing of
    scales: Scales
    shift: np.ndarray | None

    def __str__(self):
        def kind(value):
            return f"{value.dtype}{list(value.shape)}"

        given = {key: kind(value) for key, value in self.params.items()}
        mask = None if self.mask is None else kind(self.mask)
        return (
            f"draw {self.seed}: {self.name} x={kind(self.x)} "
            f"{self.scales} mask={mask} params={given} "
            f"state={[kind(leaf) for leaf in self.state]} "
            f"{self.options | self.ours_alone}"
        )

    @property
    def arithmetic(self):
        wide = self.x.dtype == np.float64
        before = self.x.dtype if self.ours_alone.get("round_before_scale") else None
        return Arithmetic(np.float64 if wide else np.float32, self.shift, before)

    @property
    def hidden(self):
        """Where the mask hides x."""
        mask = np.True_ if self.mask is None else self.mask
        return np.broadcast_to(mask == 0, self.x.shape)

    @property
    def momentum(self):
        """That of the running statistics, if that is rounded, and moves them."""
        momentum = self.options.get("momentum", 0)
        return (momentum,) if 0 < momentum < 1 else ()

    def unit(self, key):
        """The size of x, or of a parameter, as far as that depends on the scales."""
        power = 1 if key == "x" else ROWS[self.name].powers.get(key, 0)
        return self.scales.unit(power)

    def ours(self, x, params, state, mask):
        """y and the arrays of the new state."""
        row, params = ROWS[self.name], self._all(params)
        options = self.options | self.ours_alone
        if row.masked:
            options["mask"] = mask
        match row.state:
            case None if self.name == "virtual_batch_norm":
                mean, var = params.pop("ref_mean"), params.pop("ref_var")
                reference = jaxnorm.Moments(jnp.ones_like(var), mean, var)
                return row.function(x, reference, **params, **options), ()
            case None:
                result = row.function(x, **params, **options)
                y, *others = result if isinstance(result, tuple) else (result,)
                return y, tuple(others)
            case "vector":
                y, *new = row.function(x, *state, **params, **options)
                return y, tuple(new)
            case "stream":
                moments = jaxnorm.RunningMoments(*state)
                y, new = row.function(x, moments, **params, **options)
                return y, (new.count, new.mean, new.var)
            case "renorm":
                state = jaxnorm.RenormStats(*state)
            case "mean":
                state = jaxnorm.MeanStats(*state)
            case "var":
                state = jaxnorm.VarStats(*state)
            case _:
                state = jaxnorm.BatchStats(*state)
        y, new = row.function(x, state, **params, **options)
        return y, tuple(jax.tree.leaves(new))

    def oracle(self):
        """The oracle as a function of x, the given parameters and the momentum.

        It returns y, and the state.
        """
        row, options, state = ROWS[self.name], dict(self.options), self.state
        if row.masked:
            options["mask"] = self.mask
        if row.features == "one":
            (options["feature_axes"],) = np.atleast_1d(options["feature_axes"])
        match self.name:
            case "batch_renorm":
                moving = ("momentum", "use_running_average")
                own = {k: v for k, v in options.items() if k not in moving}
                options["frozen"] = oracles.renorm_corrections(
                    self.x, *self.state[:2], **own
                )
            case "spectral_norm":
                options["frozen"] = oracles.power_iteration(
                    self.x, *self.state, options["n_steps"], options["epsilon"]
                )
            case "running_norm":
                parts = [oracles.wide(value) for value in state]
                state = [a + rest for a, rest in zip(parts[:3], parts[3:], strict=True)]
                own = {k: v for k, v in options.items() if k in STREAM}
                if options["update"]:
                    options["frozen"] = oracles.stream_moments(self.x, *state, **own)

        def function(x, *params):
            if self.momentum:
                *params, options["momentum"] = params
            params = self._all(dict(zip(self.params, params, strict=True)))
            with np.errstate(all="ignore"):
                result = row.reference(x, *state, **params, **options)
            return result if isinstance(result, tuple) else (result,)

        return function

    def _all(self, params):
        given = ROWS[self.name].params
        return {key: None for key in NEEDED if key in given} | params


def draw_call(seed):
    """The call with this number, in NumPy's arrays."""
    rng = np.random.default_rng((seed, 7))
    name = list(ROWS)[seed % len(ROWS)]
    row = ROWS[name]
    dtype = _draw_dtype(rng, row)
    shape = draw_shape(rng, row)
    axes = draw_axes(rng, row, len(shape))
    features = tuple(sorted(axis % len(shape) for axis in np.atleast_1d(axes).tolist()))
    scales = Scales.draw(rng, dtype)
    x = draw_x(rng, shape, features, dtype, scales)
    mask = draw_mask(rng, shape, features) if row.masked else None
    x = hide(rng, x, mask)
    sizes = tuple(shape[axis] for axis in features)

    options = {"feature_axes": axes} if row.features != "last" else {}
    for option in row.options:
        options |= draw_option(rng, option, shape, axes)
    if np.iscomplexobj(x):
        options.pop("max_abs", None)  # complex numbers are not clipped
    if name not in ("dynamic_tanh", "dynamic_erf"):
        # As large as a variance, to be seen; not below squares, which float32 has not.
        none, seen = 0.0, 0.03 * min(scales.std**2, 1e30)
        if scales.std < 1e-15:
            none = seen = 1e-6
        if name == "spectral_norm":
            seen = 0.03  # it is relative there
        options["epsilon"] = float(rng.choice([none, 1e-6, 1e-3, seen]))
    ours_alone = {k: options.pop(k) for k in OURS_ALONE if k in options}
    if rng.uniform() < 0.3:
        ours_alone["dtype"] = _draw_result_dtype(rng, dtype)

    shift, state = None, ()
    if row.state == "vector":
        state = (np.float32(rng.normal(size=sizes)),)
    elif row.state == "stream":
        mean, var = draw_stats(rng, x, axes, mask, scales, near=False)
        state = as_state(rng, row.state, mean, var, options["epsilon"])
    elif row.state is not None:
        fast = bool(rng.uniform() < 0.7)
        training = bool(rng.uniform() < 0.75)
        options |= {
            "use_running_average": not training,
            "momentum": float(rng.choice([0.0, 0.5, 0.9, 0.99, 1.0])),
        }
        whole = mask is None or mask.dtype.kind in "bi"
        if whole and row.state in ("stats", "mean", "steps", "var"):
            options["unbiased"] = bool(rng.uniform() < 0.3)
        ours_alone |= {"use_fast_variance": fast}
        if rng.uniform() < 0.1 and scales.in_range:
            ours_alone["skip_nonfinite"] = True
        mean, var = draw_stats(rng, x, axes, mask, scales, near=fast)
        if "instance_features" in options:
            mean, var = (v[options["instance_features"] :] for v in (mean, var))
        state = as_state(rng, row.state, mean, var, options["epsilon"])
        if fast:
            mean = state[0][0] if row.state == "steps" else state[0]
            shift = np.zeros_like(mean) if row.state == "var" else mean
    params = {}
    for key in row.params:
        power = row.powers.get(key, 0)
        value = draw_parameter(rng, key, x, features, scales.unit(power))
        if value is not None:
            params[key] = value
    if name == "virtual_batch_norm":
        mean, var = draw_stats(rng, x, axes, mask, scales, near=True)
        shift = mean.astype(np.complex64 if np.iscomplexobj(x) else np.float32)
        params |= {"ref_mean": shift, "ref_var": var.astype(np.float32)}
    if shift is not None:
        others = tuple(i for i in range(len(shape)) if i not in features)
        shift = np.expand_dims(oracles.wide(shift), others)
    # Eighths up to 2, which every dtype has.
    weight = np.round(8 * rng.uniform(-2, 2, shape)) / 8
    if np.iscomplexobj(x):
        weight = weight + 1j * np.round(8 * rng.uniform(-2, 2, shape)) / 8
    return Draw(
        seed, name, x, params, state, mask, weight, options, ours_alone, scales, shift
    )


def _draw_dtype(rng, row):
    kinds = ["float32"] * 5 + ["bfloat16", "bfloat16", "float16", "float64"]
    if row.takes_complex:
        kinds.append("complex64")
    return jnp.dtype(rng.choice(kinds))


def _draw_result_dtype(rng, dtype):
    if dtype == jnp.complex64:
        return jnp.dtype(jnp.complex64)
    return jnp.dtype(rng.choice(["float32", "bfloat16", "float16"]))
