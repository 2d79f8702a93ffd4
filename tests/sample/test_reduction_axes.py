"""What `reduction_axes` say: one example without an axis for it, other layouts."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.family import TABLE, close, draw_arguments, draw_mask
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen
import jaxnorm.nnx

CLASSES = {
    "instance_norm": "InstanceNorm",
    "filter_response_norm": "FilterResponseNorm",
    "global_response_norm": "GlobalResponseNorm",
    "evo_norm_s0": "EvoNormS0",
    "group_norm": "GroupNorm",
}
GROUPED = {"evo_norm_s0": {"num_groups": 2}, "group_norm": {"num_groups": 2}}
every_norm = pytest.mark.parametrize("name", CLASSES)
# Of space alone, and of groups of features.
most_in_full = pytest.mark.parametrize(
    "name", matrix(CLASSES, often=["filter_response_norm", "group_norm"])
)


def arguments(name):
    """x of shape (batch, space, features), its mask, and parameters."""
    entry = TABLE[name]
    x, params, _ = draw_arguments(entry)
    return x, draw_mask(entry), params


def reduced(name, space, features):
    """Groups of features are reduced, features alone are not."""
    return (*space, features) if name in GROUPED else space


@most_in_full
def test_one_example(name):
    """Under vmap it is as in a batch, with a mask and with gradients."""
    x, mask, params = arguments(name)
    function, options = getattr(jaxnorm, name), GROUPED.get(name, {})

    def batched(x, params):
        return function(x, **params, mask=mask, **options)

    def alone(x, params):
        axes = reduced(name, (0,), -1)
        return jax.vmap(
            lambda x, mask: function(
                x, **params, mask=mask, reduction_axes=axes, **options
            )
        )(x, mask)

    def step(forward):
        def loss(x, params):
            y = forward(x, params)
            return jnp.sum(y**3), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, params)

    close(step(alone), step(batched))


@most_in_full
def test_another_layout(name):
    """Two axes of space around the features, and the batch in the last place."""
    x, mask, params = arguments(name)
    function, options = getattr(jaxnorm, name), GROUPED.get(name, {})
    x, mask = (a.reshape(4, 2, 3, 4) for a in (x, mask))
    y = jax.jit(lambda x: function(x, **params, mask=mask, **options))(x)
    layout = (3, 1, 2, 0)  # features first
    axes = reduced(name, (1, 2), 0)

    @jax.jit
    def moved(x):
        return function(
            x.transpose(layout),
            **params,
            mask=mask.transpose(layout),
            reduction_axes=axes,
            feature_axes=0,
            **options,
        ).transpose(layout)

    close(moved(x), y)


@pytest.mark.parametrize(
    ("name", "api"),
    matrix(
        itertools.product(CLASSES, ("linen", "nnx")),
        often=[
            ("instance_norm", "linen"),
            ("evo_norm_s0", "linen"),
            ("global_response_norm", "nnx"),
            ("group_norm", "nnx"),
        ],
    ),
)
def test_modules(name, api):
    """Both hand them on."""
    x, _, _ = arguments(name)
    options = GROUPED.get(name, {})
    axes = reduced(name, (0,), -1)

    def run(x, options):
        if api == "nnx":
            cls = getattr(jaxnorm.nnx, CLASSES[name])
            return cls(x.shape[-1], **options, rngs=nnx.Rngs(0))(x)
        module = getattr(jaxnorm.linen, CLASSES[name])(**options)
        return module.init_with_output(jax.random.key(0), x)[0]

    alone = jax.jit(jax.vmap(lambda x: run(x, options | {"reduction_axes": axes})))
    batched = jax.jit(lambda x: run(x, options))(x)
    close(alone(x), batched)
    first = {"reduction_axes": reduced(name, (1,), 0)}
    first |= {
        "feature_axis" if (name, api) == ("group_norm", "nnx") else "feature_axes": 0
    }
    moved = jax.eval_shape(lambda x: run(x, options | first), jnp.ones((4, 6, 4)))
    assert moved.shape == x.shape


@every_norm
def test_bad_axes(name):
    x, _, params = arguments(name)
    function, options = getattr(jaxnorm, name), GROUPED.get(name, {})
    wrong = (1,) if name in GROUPED else (1, -1)
    for axes, says in ((wrong, "feature axis"), (3, "got 3"), ((1, 1), "(1, 1)")):
        with refused("reduction_axes", says):
            function(x, **params, reduction_axes=axes, **options)
