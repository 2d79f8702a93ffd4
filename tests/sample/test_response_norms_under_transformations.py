"""The same four normalizers: derivatives, transformations, meshes, and what is kept."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import wide
from support.counting import count_primitives
from support.drawing import draw, place
from support.response_norms import NORMS, draw_parameters
from support.tiers import diagonal, matrix

import jaxnorm

SHAPE = (3, 4, 4)
# With a rule of its own; and JAX's derivatives of the core's moments.
most_in_full = pytest.mark.parametrize(
    "name", matrix(NORMS, often=["global_response_norm", "evo_norm_s0"])
)
each_with_moments = pytest.mark.parametrize(
    "name", ["filter_response_norm", "global_response_norm"]
)


def problem(name, rng, shape=SHAPE, dtype=np.float32):
    norm = NORMS[name]
    features = shape[-1:]
    function = functools.partial(norm.function, **norm.options)
    parameters = draw_parameters(rng, norm, features, features, dtype)
    return function, draw(rng, shape, dtype, loc=0.5), parameters


@pytest.mark.parametrize("name", matrix(NORMS, often=["global_response_norm"]))
def test_derivatives_of_both_modes_to_the_second_order(name, rng, make_mask, x64):
    """Against differences, and each way to the second order against the others."""
    function, *arguments = problem(name, rng, dtype=np.float64)
    if NORMS[name].masked:
        function = functools.partial(function, mask=make_mask("bool", SHAPE))
    at, unravel = ravel_pytree(arguments)
    direction, weight = draw(rng, at.shape, float), draw(rng, SHAPE, float)

    def loss(at):
        x, parameters = unravel(at)
        return jnp.sum(weight * jnp.sin(function(x, **parameters)))

    def along(f):
        return lambda at: jax.jvp(f, (at,), (direction,))[1]

    gradient, step = jax.grad(loss), 1e-5

    @jax.jit
    def derivatives(at):
        losses, gradients = jax.vmap(
            lambda move: jax.value_and_grad(loss)(at + move * direction)
        )(jnp.asarray([step, -step]))
        first = {
            "differences": (losses[0] - losses[1]) / (2 * step),
            "forward": along(loss)(at),
            "reverse": jnp.vdot(gradient(at), direction),
        }
        second = {
            "differences": (gradients[0] - gradients[1]) / (2 * step),
            "forward over reverse": along(gradient)(at),
            "reverse over forward": jax.grad(along(loss))(at),
            "reverse over reverse": jax.grad(lambda a: gradient(a) @ direction)(at),
        }
        twice_forward = along(along(loss))(at), along(gradient)(at) @ direction
        return first, second, twice_forward

    first, second, twice_forward = jax.device_get(derivatives(at))
    for way in ("differences", "forward"):
        assert oracles.error(first[way], first["reverse"]) <= 1e-7, way
    for way in second:
        actual, expected = second[way], second["forward over reverse"]
        tolerance = 1e-6 if way == "differences" else 1e-9
        assert oracles.error(actual, expected) <= tolerance, way
    assert oracles.error(*twice_forward) <= 1e-9


@pytest.mark.parametrize("name", matrix(NORMS, often=["global_response_norm"]))
def test_hessian_is_symmetric(name, rng, x64):
    function, x, parameters = problem(name, rng, dtype=np.float64)
    hessian = jax.jit(jax.hessian(lambda x: jnp.sum(function(x, **parameters) ** 3)))
    matrix = hessian(x).reshape(x.size, x.size)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-9)


@most_in_full
def test_vmap_over_models(name, rng):
    function, *_ = problem(name, rng)
    drawn = [problem(name, rng)[1:] for _ in range(3)]
    x, parameters = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
    one = jax.jit(lambda x, p: function(x, **p))
    y = np.asarray(jax.jit(jax.vmap(one))(x, parameters))
    for model, (x, parameters) in zip(y, drawn, strict=True):
        assert oracles.error(model, one(x, parameters)) <= 1e-5


@pytest.mark.parametrize("name", matrix(NORMS, often=["filter_response_norm"]))
def test_scan_and_remat_over_layers(name, rng):
    function, x, parameters = problem(name, rng)

    def layer(x, parameters):
        return jnp.sin(function(x, **parameters)), None

    def loss(layer, x, parameters):
        layers = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), parameters)
        return jnp.sum(jax.lax.scan(layer, x, layers)[0])

    def unrolled(x, parameters):
        for _ in range(2):
            x, _ = layer(x, parameters)
        return jnp.sum(x)

    keep = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
    losses = [
        unrolled,
        functools.partial(loss, layer),
        functools.partial(loss, jax.checkpoint(layer)),
        functools.partial(loss, jax.checkpoint(layer, policy=keep)),
    ]
    expected, *others = (jax.jit(jax.grad(f, (0, 1)))(x, parameters) for f in losses)
    for actual in others:
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)


@most_in_full
def test_no_retrace(name, rng):
    function, x, parameters = problem(name, rng)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda x, p: function(x, **p), n=1))
    for factor in (1, 2):
        step(factor * np.asarray(x), parameters)


@pytest.mark.parametrize(
    ("name", "axis_type"),
    matrix(
        itertools.product(NORMS, (AxisType.Explicit, AxisType.Auto)),
        often=[
            ("evo_norm_s0", AxisType.Explicit),
            ("global_response_norm", AxisType.Explicit),
            ("global_response_norm", AxisType.Auto),
        ],
    ),
)
def test_space_and_features_sharded_under_jit(name, axis_type, rng, make_mask):
    shape = (2, 4, 8)  # a group of four features lies on two devices
    function, x, parameters = problem(name, rng, shape)
    mask = make_mask("bool", shape) if NORMS[name].masked else None

    def loss(x, parameters, mask):
        masked = {} if mask is None else {"mask": mask}
        y = function(x, **parameters, **masked)
        return jnp.sum(jnp.sin(y)), y

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    expected = step(x, parameters, mask)
    mesh = jax.make_mesh((2, 4), ("space", "features"), (axis_type,) * 2)
    put = functools.partial(NamedSharding, mesh)
    x, mask = jax.device_put((x, mask), put(P(None, "space", "features")))
    parameters = jax.device_put(parameters, put(P("features")))
    with jax.set_mesh(mesh):
        actual = step(x, parameters, mask)
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "check_vma"),
    matrix(
        itertools.product(NORMS, (True, False)),
        often=[
            ("filter_response_norm", True),
            ("dynamic_tanh", True),
            ("global_response_norm", False),
        ],
    ),
)
def test_gradients_in_shard_map_equal_those_of_one_device(name, check_vma, rng):
    function, x, parameters = problem(name, rng, (8, 3, 4))
    mapped = jax.shard_map(
        lambda x, parameters: function(x, **parameters),
        mesh=jax.make_mesh((8,), ("data",), (AxisType.Auto,)),
        in_specs=(P("data"), P()),
        out_specs=P("data"),
        check_vma=check_vma,
    )

    def gradient(function):
        return jax.jit(jax.grad(lambda x, p: jnp.sum(jnp.sin(function(x, p))), (0, 1)))

    expected = gradient(lambda x, p: function(x, **p))(x, parameters)
    actual = gradient(mapped)(x, parameters)
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "name, masked, dtype",
    matrix(
        itertools.product(NORMS, (False, True), (jnp.float32, jnp.bfloat16)),
        often=diagonal(NORMS, (True, False), (jnp.bfloat16, jnp.float32)),
    ),
)
def test_saved_for_the_backward_pass_are_x_and_vectors(name, masked, dtype, rng):
    shape = (4, 16, 16, 8)
    function, x, parameters = problem(name, rng, shape)
    options = {"dtype": dtype}
    if masked and NORMS[name].masked:
        options["mask"] = jax.device_put(np.arange(4).reshape(4, 1, 1, 1) < 3)

    def backward(x, parameters):
        return jax.vjp(lambda x, p: function(x, **p, **options), x, parameters)[1]

    saved = jax.eval_shape(backward, jax.ShapeDtypeStruct(shape, dtype), parameters)
    saved = jax.tree.leaves(saved)

    def nbytes(leaves):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    large = [leaf for leaf in saved if leaf.size == x.size]
    assert nbytes(large) / x.size == jnp.dtype(dtype).itemsize
    vectors = nbytes(saved) - nbytes(large[:1])
    assert vectors <= 8 * 4 * shape[0] * shape[-1]


@each_with_moments
def test_remat_that_keeps_the_moments_repeats_no_reduction(name, rng):
    function, x, parameters = problem(name, rng)

    def reductions(policy):
        block = jax.checkpoint(
            lambda x: function(jnp.sin(x), **parameters), policy=policy
        )
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(block(x))))
        return count_primitives("reduce_sum", gradient, x)

    keep = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
    plain = reductions(jax.checkpoint_policies.everything_saveable)
    assert reductions(keep) == plain
    assert reductions(jax.checkpoint_policies.nothing_saveable) > plain


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-18, 1e-12, 1e-7])
def test_global_response_of_next_to_nothing(size, rng):
    """Where the derivatives of a root grow without bound, and some features are 0."""
    x = place(size * wide(draw(rng, (2, 3, 4))) * (np.arange(4) != 1))
    scale, bias, weight = draw(rng, 4, loc=1), draw(rng, 4), draw(rng, x.shape)
    gradient, hessian = two_derivatives(x, scale, bias, weight)
    assert np.isfinite(gradient).all() and np.isfinite(hessian).all()
    if size < 1e-10:  # next to epsilon the norms are 0
        np.testing.assert_allclose(gradient, weight, rtol=1e-3)
    if size < 1e-15:
        return
    with jax.enable_x64(True):  # in which the formula itself is far from its limits
        expected = two_of_the_formula(*map(wide, (x, scale, weight)))
    assert oracles.error(gradient, expected[0]) <= 1e-5
    assert oracles.error(hessian, expected[1]) <= 1e-5


@jax.jit
def two_derivatives(x, scale, bias, weight):
    def loss(x):
        return jnp.sum(jaxnorm.global_response_norm(x, scale, bias) * weight)

    return jax.grad(loss)(x), jax.hessian(loss)(x)


@jax.jit
def two_of_the_formula(x, scale, weight):
    def formula(x):
        square = jnp.sum(x**2, 1, keepdims=True)
        norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
        norm = jnp.where(square > 0, norm, 0.0)
        share = norm / (jnp.mean(norm, 2, keepdims=True) + 1e-6)
        y = x * share * scale.reshape(1, 1, 4) + x
        return jnp.sum(y * weight)

    return jax.grad(formula)(x), jax.hessian(formula)(x)


@each_with_moments
def test_an_element_that_is_not_finite_shows(name, rng):
    function, x, parameters = problem(name, rng)
    x = np.array(x)
    x[0, 0, 0] = np.nan
    y = np.asarray(jax.jit(function)(x, **parameters))
    assert np.isnan(y[0, :, 0]).all() and np.isfinite(y[1:]).all()
