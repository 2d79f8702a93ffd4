"""Layers with a folded norm compute what the layer and the norm did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.jitted import jitted
from support.layer_and_norm import Pair, draw_variables, error
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
from jaxnorm.tools import fold_batch_norm

pytestmark = pytest.mark.usefixtures("annotations_checked")

IMAGES, WIDE = (2, 7, 6, 4), (2, 9, 10, 4)

# layer, shape of its input, options of the fold, axis of the norm
AFTER = {
    "dense": (nn.Dense, {"features": 3}, (5, 4), {}, -1),
    "dense, two axes": (
        nn.DenseGeneral,
        {"features": (3, 2)},
        (5, 4),
        {"out_axes": (-2, -1)},
        (-2, -1),
    ),
    "dense, the last of two axes": (
        nn.DenseGeneral,
        {"features": (3, 2)},
        (5, 4),
        {"out_axes": (1, 2)},
        -1,
    ),
    "conv": (nn.Conv, {"features": 3, "kernel_size": (3, 2)}, IMAGES, {}, -1),
    "conv, 1-D": (nn.Conv, {"features": 3, "kernel_size": (3,)}, (2, 7, 4), {}, -1),
    "strided, dilated": (
        nn.Conv,
        {"features": 3, "kernel_size": (3, 3), "strides": 2, "kernel_dilation": 2},
        WIDE,
        {},
        -1,
    ),
    "grouped": (
        nn.Conv,
        {"features": 6, "kernel_size": (3, 3), "feature_group_count": 2},
        IMAGES,
        {},
        -1,
    ),
    "transposed": (
        nn.ConvTranspose,
        {"features": 3, "kernel_size": (3, 3), "strides": (2, 2)},
        IMAGES,
        {},
        -1,
    ),
    "transposed, its other layout": (
        nn.ConvTranspose,
        {"features": 3, "kernel_size": (2, 3), "transpose_kernel": True},
        IMAGES,
        {"out_axes": -2},
        -1,
    ),
}


def conv(padding="VALID", size=(3, 3), **options):
    layer = {"features": 6, "kernel_size": size, "padding": padding}
    return nn.Conv, layer | options, IMAGES, {"padding": padding}, -1


def transposed(**options):
    layer = {"features": 3, "kernel_size": (3, 2), "padding": "CIRCULAR"}
    return nn.ConvTranspose, layer | options, IMAGES, {"padding": "CIRCULAR"}, -1


def grouped(groups, **options):
    layer, settings, shape, fold, axis = conv(feature_group_count=groups, **options)
    return layer, settings, shape, fold | {"groups": groups}, axis


BEFORE = {
    "dense": (nn.Dense, {"features": 3}, (5, 4), {}, -1),
    "dense, two axes": (
        nn.DenseGeneral,
        {"features": 3, "axis": (-2, -1)},
        (5, 4, 2),
        {"in_axes": (0, 1)},
        -1,
    ),
    "valid": conv(),
    "no padding, in numbers": conv([(0, 0), (0, 0)]),
    "circular": conv("CIRCULAR"),
    "reflected": conv("REFLECT"),
    "size 1": conv("SAME", (1, 1), strides=2),
    "strided, dilated": conv(strides=2, kernel_dilation=2),
    "grouped": grouped(2),
    "depthwise": grouped(4, features=8),
    "transposed": transposed(),
    "transposed, its other layout": (
        *transposed(transpose_kernel=True)[:3],
        {"padding": "CIRCULAR", "in_axes": -1, "out_axes": -2},
        -1,
    ),
}
CASES = [*((False, name) for name in AFTER), *((True, name) for name in BEFORE)]


def parts(variables):
    layer = variables["params"]["layer"]
    norm, stats = variables["params"]["norm"], variables["batch_stats"]["norm"]
    return layer, jaxnorm.BatchStats(stats["mean"], stats["var"]), norm


@pytest.mark.parametrize(
    ("norm_first", "name"),
    matrix(
        CASES,
        often=[
            (False, "grouped"),
            (False, "transposed, its other layout"),
            (True, "dense, two axes"),
            (True, "circular"),
            (True, "strided, dilated"),
            (True, "depthwise"),
            (True, "transposed"),
        ],
    ),
)
def test_computes_the_same(norm_first, name, rng):
    layer, settings, shape, options, axis = (BEFORE if norm_first else AFTER)[name]
    x = place(rng.normal(size=shape))
    model = Pair(layer(**settings), axis, norm_first, epsilon=0.1)
    variables = draw_variables(model, x)
    params, stats, norm = parts(variables)
    folded = Pair(layer(**settings), None)

    @jax.jit
    def both(variables, params, stats, norm, x):
        kernel, bias = fold_batch_norm(
            params["kernel"],
            params["bias"],
            stats,
            norm["scale"],
            norm["bias"],
            epsilon=0.1,
            norm_first=norm_first,
            **options,
        )
        y = folded.apply({"params": {"layer": {"kernel": kernel, "bias": bias}}}, x)
        return y, model.apply(variables, x)

    assert error(*both(variables, params, stats, norm, x)) < 1e-5


@pytest.mark.parametrize("norm_first", [False, True])
def test_without_scale_and_bias(norm_first, rng):
    kernel = place(rng.normal(size=(4, 3)))
    mean, var = rng.uniform(1, 2, (2, 4 if norm_first else 3))
    stats = jaxnorm.CountedBatchStats(place(mean), place(var), place(3.0))
    x = place(rng.normal(size=(5, 4)))

    @jax.jit
    def both(x, kernel, stats):
        def norm(x):
            return jaxnorm.normalize(x, stats.mean, stats.var)

        expected = norm(x) @ kernel if norm_first else norm(x @ kernel)
        kernel, bias = fold_batch_norm(
            kernel, None, stats, None, None, norm_first=norm_first
        )
        return x @ kernel + bias[None], expected

    assert error(*both(x, kernel, stats)) < 1e-5


def test_groups_in_the_other_layout(rng):
    kernel = place(rng.normal(size=(3, 2, 8)))
    stats = jaxnorm.BatchStats(*map(place, rng.uniform(1, 2, (2, 4))))
    options = {"norm_first": True, "groups": 2, "padding": 0}
    layout = {"in_axes": -1, "out_axes": -2}

    @jax.jit
    def both(kernel, stats):
        other = jnp.swapaxes(kernel, -1, -2)
        return (
            fold_batch_norm(kernel, None, stats, None, None, **options),
            fold_batch_norm(other, None, stats, None, None, **options, **layout),
        )

    (expected, bias), (swapped, same) = both(kernel, stats)
    np.testing.assert_array_equal(np.swapaxes(swapped, -1, -2), expected)
    np.testing.assert_allclose(same, bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_half_precision_rounds_once(norm_first, rng):
    features = 4 if norm_first else 3
    kernel = place(rng.normal(size=(2, 2, 4, 3)), jnp.bfloat16)
    bias = place(rng.normal(size=3), jnp.bfloat16)
    mean, var, scale, shift = map(place, rng.uniform(1, 2, (4, features)))
    options = {"norm_first": norm_first, "padding": 0}
    norm = (jaxnorm.BatchStats(mean, var), scale, shift)
    fold = jitted(fold_batch_norm, **options)
    low = fold(kernel, bias, *norm)
    high = fold(place(kernel), place(bias), *norm)
    for one, other in zip(low, high, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_array_equal(one, np.asarray(other).astype(jnp.bfloat16))
    assert jax.eval_shape(fold, kernel, None, *norm)[1].dtype == jnp.bfloat16


def fold(kernel=(3, 3, 4, 6), features=6, **options):
    stats = jaxnorm.init_batch_stats(features)
    bias = options.pop("bias", None)
    kernel = jax.ShapeDtypeStruct(kernel, jnp.float32)

    def fold_traced(kernel):
        return fold_batch_norm(kernel, bias, stats, None, None, **options)

    return jax.eval_shape(fold_traced, kernel)


@pytest.mark.parametrize("padding", ["SAME", "CAUSAL", None, 1, [(0, 0), (0, 1)]])
def test_padding_with_zeros_after_the_norm_is_an_error(padding):
    with pytest.raises(ValueError, match="Padded zeros are not normalized"):
        fold(features=4, norm_first=True, padding=padding)
    fold(padding=padding)  # which the norm after the layer does not mind


def test_even_a_kernel_of_size_1_can_be_padded():
    fold((1, 1, 4, 6), 4, norm_first=True, padding="SAME")
    with pytest.raises(ValueError, match="Padded zeros are not normalized"):
        fold((1, 1, 4, 6), 4, norm_first=True, padding=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 4}, r"layer's outputs, \(6,\).*got \(4,\)"),
        ({"norm_first": True, "padding": 0}, r"layer's inputs, \(4,\).*got \(6,\)"),
        ({"features": 1}, "layer's outputs"),
        ({"features": (3, 6)}, "layer's outputs"),
        ({"bias": jnp.ones(4)}, r"bias must .*\(6,\).*got \(4,\)"),
        ({"out_axes": 4}, "out_axes must lie in"),
        ({"epsilon": -1.0}, "epsilon"),
        (
            {"norm_first": True, "features": 4, "padding": "VALID", "transposed": True},
            "transposed convolution",
        ),
        (
            {"norm_first": True, "features": 4, "padding": 0, "groups": 2},
            r"layer's inputs, \(8,\)",
        ),
        (
            {"norm_first": True, "padding": 0, "groups": 4},
            "with groups, the kernel must",
        ),
        ({"norm_first": True, "in_axes": -1, "padding": 0}, "different axes"),
        ({"groups": 0}, "groups must be at least 1, got 0"),
    ],
)
def test_bad_input_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        fold(**options)


def test_what_is_of_the_wrong_type_is_an_error(as_users_run_it):
    kernel, stats = jnp.ones((4, 6)), jaxnorm.init_batch_stats(6)
    for groups in (1.0, "1"):
        with refused("groups", "integer", repr(groups)):
            fold_batch_norm(kernel, None, stats, None, None, groups=groups)
    with pytest.raises(TypeError, match="stats must be BatchStats"):
        fold_batch_norm(kernel, None, tuple(stats), None, None)
    with pytest.raises(TypeError, match="kernel must be complex"):
        stats = stats._replace(mean=stats.mean.astype(jnp.complex64))
        fold_batch_norm(kernel, None, stats, None, None)
    with pytest.raises(ValueError, match=r"scale must have the shape of stats\.mean"):
        fold_batch_norm(kernel, None, stats, jnp.ones(4), None)
