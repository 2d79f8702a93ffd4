"""One entry for each function of the family, so that all pass the same tests.

Each is called in the same way, in training unless asked otherwise::

    y, new_state = call(x, params, state, mask)

x has the shape (examples, space, features), which is as good for a kernel.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxnorm
from support.drawing import draw_stats, place

SHAPE = (4, 6, 4)
FEATURES = SHAPE[-1]
STEPS = 3  # of recurrent batch norm, of which the middle one is called


class Param(NamedTuple):
    """What a parameter is drawn from."""

    loc: float
    shape: tuple[int, ...] = (FEATURES,)
    std: float = 0.2


class Entry(NamedTuple):
    """A function, and what the tests have to know of it."""

    call: Callable[..., tuple[jax.Array, Any]]  # (x, params, state, mask, **options)
    params: dict[str, Param]
    state: Callable[..., Any] | None = None  # (rng, x) -> state in float32
    masked: bool = True
    takes_complex: bool = True
    inference: bool = False  # use_running_average is an option of `call`
    own_hessian: bool = True  # the derivative of the gradient is that of the function
    own_gradient: bool = True  # and the gradient, in training too


SCALE, BIAS = Param(1.0), Param(0.0)
AFFINE = {"scale": SCALE, "bias": BIAS}


def of_batch(function, *, params=AFFINE, state=None, takes_complex=True, **fixed):
    """An entry for one with running statistics, by default those of batch norm."""

    def call(x, params, state, mask, use_running_average=False, **options):
        options |= {"use_running_average": use_running_average, "momentum": 0.5}
        return function(x, state, **params, mask=mask, **options, **fixed)

    if state is None:
        state = batch_stats
    return Entry(call, params, state, takes_complex=takes_complex, inference=True)


def of_example(function, *, params=AFFINE, masked=True, takes_complex=True, **fixed):
    """An entry for one without state."""

    def call(x, params, state, mask, **options):
        options |= {"mask": mask} if masked else {}
        return function(x, **params, **options, **fixed), state

    return Entry(call, params, masked=masked, takes_complex=takes_complex)


def batch_stats(rng, x, features=FEATURES):
    del x
    return draw_stats(rng, features)


def renorm_stats(rng, x):
    """So far from any batch here that both corrections are clipped, and constant."""
    del rng, x
    mean, std = place(np.full(FEATURES, 9.0)), place(np.full(FEATURES, 7.0))
    return jaxnorm.RenormStats(mean, std, place(0.0))


def recurrent_stats(rng, x):
    stats = batch_stats(rng, x)
    return jax.tree.map(lambda s: place(np.stack([s] * STEPS)), stats)


def singular_vector(rng, x):
    """The last one of the iteration, where the gradient is the function's."""
    del rng
    matrix = np.asarray(x, np.float64).reshape(-1, FEATURES)
    return place(np.linalg.svd(matrix)[2][0])


def virtual_batch_norm(x, params, state, mask, **options):
    params = params | options
    mean, var = params.pop("mean"), params.pop("var")
    reference = jaxnorm.Moments(jnp.full(FEATURES, 9.0), mean, var)
    y = jaxnorm.virtual_batch_norm(x, reference, **params, mask=mask, reference_size=3)
    return y, state


def spectral_norm(w, params, state, mask, **options):
    del params, mask
    return jaxnorm.spectral_norm(w, state, dtype=w.dtype, **options)[:2]


def running_moments(rng, x):
    """Counts of weights, no integers, so that all that is kept of them moves."""
    del x
    count, (mean, var) = rng.uniform(1, 9, FEATURES), draw_stats(rng, FEATURES)
    rest = place(rng.uniform(-1e-8, 1e-8, FEATURES))
    return jaxnorm.RunningMoments(place(count), mean, var, rest, rest, rest)


def running_norm(x, params, state, mask, use_running_average=False, **options):
    del params
    options |= {"update": not use_running_average, "mask": mask}
    return jaxnorm.running_norm(x, state, **options)


def gate_of(x):
    """Numbers of every dtype; of others see sample/test_gated_rms_norm.py."""
    if not isinstance(x, jax.Array):  # an input that is refused
        return jnp.ones(1)
    gate = (jnp.arange(float(x.shape[-1])) - 0.5).astype(jnp.real(x).dtype)
    return jnp.broadcast_to(gate, x.shape)


def segments_of(x):
    """Ids in no order, of positions along two axes; one segment has none."""
    if not isinstance(x, jax.Array):  # an input that is refused
        return {"segment_ids": jnp.zeros(1, int), "num_segments": 1}
    rows, columns = (jnp.arange(size) for size in x.shape[:2])
    ids = (rows[:, None] + 2 * columns[None, :]) % 3
    return {"segment_ids": ids, "num_segments": 4}


def of_segments(function, **fields):
    """An entry for one that normalizes segments, which are always the same."""
    return of_example(
        lambda x, **options: function(x, **options, **segments_of(x)), **fields
    )


TABLE = {
    "batch_norm": of_batch(jaxnorm.batch_norm),
    "batch_renorm": of_batch(
        jaxnorm.batch_renorm,
        state=renorm_stats,
        r_max=1.1,
        d_max=0.2,
        takes_complex=False,
    ),
    "ghost_batch_norm": of_batch(jaxnorm.ghost_batch_norm, virtual_batch_size=2),
    "virtual_batch_norm": Entry(
        virtual_batch_norm, AFFINE | {"mean": Param(0.3), "var": Param(1.0)}
    ),
    "adaptive_batch_norm": of_batch(
        jaxnorm.adaptive_batch_norm, strength=0.5, takes_complex=False
    ),
    "mean_only_batch_norm": of_batch(
        jaxnorm.mean_only_batch_norm,
        params={"bias": BIAS},
        state=lambda rng, x: jaxnorm.MeanStats(batch_stats(rng, x).mean),
    ),
    "recurrent_batch_norm": of_batch(
        jaxnorm.recurrent_batch_norm, state=recurrent_stats, step=1
    ),
    "evo_norm_b0": of_batch(
        jaxnorm.evo_norm_b0,
        params=AFFINE | {"v": Param(1.0)},
        state=lambda rng, x: jaxnorm.VarStats(batch_stats(rng, x).var),
        takes_complex=False,
    ),
    "running_norm": Entry(
        running_norm,
        {},
        running_moments,
        inference=True,
        own_gradient=False,  # moments are constants
    ),
    "layer_norm": of_example(jaxnorm.layer_norm),
    "rms_norm": of_example(jaxnorm.rms_norm, params={"scale": BIAS}, scale_offset=1.0),
    "gated_rms_norm": of_example(
        lambda x, scale, **options: jaxnorm.gated_rms_norm(
            x, gate_of(x), scale, **options
        ),
        params={"scale": SCALE},
        num_groups=2,
        reduction_axes=(1, 2),  # else two small elements have large derivatives
    ),
    "seed_norm": of_example(
        jaxnorm.seed_norm,
        params={"alpha": Param(1.0), "beta": Param(0.2), "scale": SCALE},
        reduction_axes=(1, 2),  # likewise
        takes_complex=False,
    ),
    "group_norm": of_example(jaxnorm.group_norm, num_groups=2),
    "causal_group_norm": of_example(
        lambda x, **options: jaxnorm.causal_group_norm(x, **options)[0]
    ),
    "instance_norm": of_example(jaxnorm.instance_norm),
    "graph_norm": of_segments(
        jaxnorm.graph_norm, params=AFFINE | {"mean_scale": Param(0.7)}
    ),
    "segment_layer_norm": of_segments(jaxnorm.segment_layer_norm),
    "segment_rms_norm": of_segments(
        jaxnorm.segment_rms_norm, params={"scale": BIAS}, scale_offset=1.0
    ),
    "reversible_instance_norm": of_example(
        lambda x, **options: jaxnorm.reversible_instance_norm(x, **options)[0]
    ),
    "filter_response_norm": of_example(
        jaxnorm.filter_response_norm,
        params=AFFINE | {"threshold": Param(-0.5), "learned_epsilon": Param(0.5)},
        takes_complex=False,  # with a threshold
    ),
    "global_response_norm": of_example(jaxnorm.global_response_norm),
    "unit_norm": of_example(jaxnorm.unit_norm, params={}, masked=False),
    "dynamic_tanh": of_example(
        jaxnorm.dynamic_tanh, params=AFFINE | {"alpha": Param(0.5, ())}, masked=False
    ),
    "dynamic_erf": of_example(
        jaxnorm.dynamic_erf,
        params=AFFINE | {"alpha": Param(0.5, ()), "shift": Param(0.2, ())},
        masked=False,
        takes_complex=False,
    ),
    "evo_norm_s0": of_example(
        jaxnorm.evo_norm_s0,
        params=AFFINE | {"v": Param(1.0)},
        num_groups=2,
        takes_complex=False,
    ),
    "switchable_norm": of_batch(
        jaxnorm.switchable_norm,
        params=AFFINE
        | {"mean_logits": Param(0.0, (3,), 1.0), "var_logits": Param(0.0, (3,), 1.0)},
    ),
    "batch_instance_norm": of_batch(
        jaxnorm.batch_instance_norm, params=AFFINE | {"gate": Param(0.5, std=0.1)}
    ),
    "instance_batch_norm": of_batch(
        jaxnorm.instance_batch_norm,
        state=functools.partial(batch_stats, features=FEATURES - 1),
        instance_features=1,
    ),
    "weight_norm": of_example(
        lambda v, g, **options: jaxnorm.weight_norm(v, g, **options),
        params={"g": SCALE},
        masked=False,
    ),
    "standardize_weight": of_example(
        lambda w, gain, **options: jaxnorm.standardize_weight(w, gain=gain, **options),
        params={"gain": SCALE},
        masked=False,
    ),
    "spectral_norm": Entry(
        spectral_norm,
        {},
        singular_vector,
        masked=False,
        takes_complex=False,
        own_hessian=False,  # u and v are constants
    ),
}


# One of each kind of state and each rule of derivatives: what compiles each function is
# compiled for these in the default tier, and for all in the full one.
KINDS = (
    "batch_norm",
    "ghost_batch_norm",
    "virtual_batch_norm",
    "recurrent_batch_norm",
    "running_norm",
    "layer_norm",
    "rms_norm",
    "global_response_norm",
    "evo_norm_s0",
    "switchable_norm",
    "spectral_norm",
)


def draw_arguments(entry, seed=0):
    """x, params and state, in float32; an empty tuple for no state."""
    rng = np.random.default_rng(seed)
    x = place(rng.normal(0.5, 1.5, SHAPE))
    params = {
        name: place(rng.normal(p.loc, p.std, p.shape))
        for name, p in entry.params.items()
    }
    return x, params, entry.state(rng, x) if entry.state else ()


def draw_mask(entry):
    """Three quarters of all; None for one that takes no mask."""
    places = np.indices(SHAPE).sum(0)
    return jax.device_put(places % 4 != 0) if entry.masked else None


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: place(leaf, dtype), tree)


def gradients_of(name):
    """A step: gradients in x and params of a sum over y; y, and the new state."""

    def step(x, params, state, mask):
        def loss(x, params):
            y, new = TABLE[name].call(x, params, state, mask)
            return jnp.sum(jnp.sin(y)), (y, new)

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return step


def close(actual, expected, tolerance=1e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert oracles.error(a, b) <= tolerance
