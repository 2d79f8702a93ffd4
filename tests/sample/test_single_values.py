"""A mean of a single value erases it, which is refused unless it is meant."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.refusals import refused

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

# A function, and an input of which each mean is of one value.
SINGLE = {
    "layer": (jaxnorm.layer_norm, (4, 3, 1), {}),
    "layer, no axis": (jaxnorm.layer_norm, (4, 3), {"reduction_axes": ()}),
    "instance, no space": (jaxnorm.instance_norm, (4, 3), {}),
    "instance": (jaxnorm.instance_norm, (4, 1, 1, 3), {}),
    "group": (jaxnorm.group_norm, (4, 3), {"num_groups": 3}),
    "group of space": (
        jaxnorm.group_norm,
        (4, 1, 3),
        {"num_groups": None, "group_size": 1},
    ),
    "evo norm": (
        lambda x, **options: jaxnorm.evo_norm_s0(
            *(x, jnp.ones(3), jnp.zeros(3), None), num_groups=3, **options
        ),
        (4, 3),
        {},
    ),
    "weight": (jaxnorm.standardize_weight, (1, 3), {}),
    "reversible": (
        lambda x, **options: jaxnorm.reversible_instance_norm(x, **options)[0],
        (4, 1, 3),
        {},
    ),
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", SINGLE)
def test_refused_unless_allowed(name):
    function, shape, options = SINGLE[name]
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with refused("allow_single_value=True", str(shape), "at least two"):
        jax.eval_shape(lambda x: function(x, **options), x)
    y = function(jnp.full(shape, 7.0), **options, allow_single_value=True)
    np.testing.assert_array_equal(y, np.zeros(shape))
    with pytest.warns(UserWarning, match="at least two") as warned:
        function(jnp.ones(shape), **options, allow_single_value="warn")
    assert [warning.filename for warning in warned] == [__file__]
    with refused("allow_single_value", "bool"):
        function(jnp.ones(shape), **options, allow_single_value=1)
    with refused("allow_single_value", "warn", "error"):
        function(jnp.ones(shape), **options, allow_single_value="error")


@pytest.mark.parametrize("api", [jaxnorm.linen, jaxnorm.nnx, jaxnorm.equinox])
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("LayerNorm", (4, 3, 1), {}),
        ("InstanceNorm", (4, 3), {}),
        ("GroupNorm", (4, 3), {"num_groups": 3}),
        ("EvoNormS0", (4, 3), {"num_groups": 3}),
        ("ReversibleInstanceNorm", (4, 1, 3), {}),
    ],
)
def test_modules_warn(api, name, shape, options):
    """As they follow Flax, whose modules do it in silence."""
    cls, x = getattr(api, name), jnp.ones(shape)

    def apply(x):
        if api is jaxnorm.linen:
            return cls(**options).init_with_output(jax.random.key(0), x)
        rngs = {"rngs": nnx.Rngs(0)} if api is jaxnorm.nnx else {}
        return cls(shape[-1], **options, **rngs)(x)

    with pytest.warns(
        UserWarning, match=f"at least two values.*{re.escape(str(shape))}"
    ) as warned:
        jax.eval_shape(lambda x: jax.tree.leaves(apply(x))[0], x)
    assert [warning.filename for warning in warned] == [__file__]


def test_a_wrapped_weight_of_one_input_warns():
    x, rngs = jnp.ones((4, 1)), nnx.Rngs(0)
    layer = jaxnorm.linen.WeightStandardization(nn.Dense(3))
    with pytest.warns(UserWarning, match="at least two values.*every weight") as first:
        jax.eval_shape(layer.init, jax.random.key(0), x)
    wrapped = jaxnorm.nnx.WeightStandardization(nnx.Linear(1, 3, rngs=rngs), rngs=rngs)
    with pytest.warns(UserWarning, match="at least two values.*every weight") as other:
        jax.eval_shape(wrapped, x)
    warned = [*first, *other]
    assert [warning.filename for warning in warned] == [__file__] * 2


def test_other_devices_count():
    """With one value on each of them, there are several."""
    x = place([[1.0], [3.0]])
    y = jax.vmap(lambda x: jaxnorm.layer_norm(x, axis_name="i"), axis_name="i")(x)
    np.testing.assert_allclose(y, [[-1.0], [1.0]], rtol=1e-5)


def test_a_power_is_of_one_value_too():
    """Without the mean, the sign is left."""
    np.testing.assert_allclose(jaxnorm.rms_norm(place([[-3.0]])), [[-1.0]], 1e-5)
