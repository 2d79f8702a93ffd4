"""Models with other normalizers compute what a model written with them does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.family_entries import program
from support.refusals import refused
from support.tiers import matrix

from jaxnorm import linen

KEY = jax.random.key(0)


class Net(nn.Module):
    """A norm called by keyword, one rematerialized, and one that is called twice."""

    norm: type[nn.Module]
    options: dict

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        mode = {} if self.norm in WITHOUT_STATISTICS else {
            "use_running_average": not train
        }  # fmt: skip
        x = nn.relu(self.norm(**self.options, name="first")(x, **mode))
        place = (not train,) if mode else ()
        second = nn.remat(self.norm, static_argnums=(2,) if mode else ())
        x = second(**self.options, name="second")(x, *place)
        third = self.norm(**self.options, **mode, name="third")
        return third(third(nn.Dense(6)(x)))


WITHOUT_STATISTICS = (linen.GroupNorm, linen.InstanceNorm)
CASES = {  # and what is not kept of the variables of flax.linen.BatchNorm
    "group": (linen.GroupNorm, {"num_groups": 2}, set()),
    "instance": (linen.InstanceNorm, {}, set()),
    "ghost": (linen.GhostBatchNorm, {"virtual_batch_size": 2}, set()),
    "ours": (linen.BatchNorm, {"momentum": 0.5}, set()),
    "renorm": (linen.BatchRenorm, {"r_max": 1.1}, {"std", "count"}),
}


@pytest.fixture
def x(rng):
    return place(rng.normal(size=(4, 5, 5, 3)))


@pytest.fixture
def variables(x):
    """Not at their initial values, which are everywhere the same."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: Net(nn.BatchNorm, {}).init(KEY, x, True))
    return jax.tree.map(
        lambda leaf: place(rng.uniform(0.5, 1, leaf.shape), leaf.dtype), shapes
    )


@pytest.mark.parametrize("name", matrix(CASES, often=("group", "renorm")))
def test_as_if_it_was_written_so(name, x, variables):
    cls, options, missing = CASES[name]
    old, written = Net(nn.BatchNorm, {}), Net(cls, options)

    def make(norm):
        if cls in WITHOUT_STATISTICS:
            return cls(**options)
        return cls(use_running_average=norm.use_running_average, **options)

    apply, new = linen.replace_norms(
        old, {nn.BatchNorm: make}, variables, x, train=True
    )
    shapes = jax.eval_shape(lambda: written.init(KEY, x, True))
    chex.assert_trees_all_equal_shapes_and_dtypes(new, shapes)
    chex.assert_trees_all_equal(new["params"], variables["params"])
    for layer, stats in new.get("batch_stats", {}).items():
        for key in stats.keys() - missing:
            np.testing.assert_array_equal(
                stats[key], variables["batch_stats"][layer][key]
            )
    for train in (True, False):
        expected, actual = (
            program(
                lambda v, x, f=f, t=train: f(v, x, t, mutable=["batch_stats"]), new, x
            )
            for f in (written.apply, apply)
        )
        assert actual == expected


def test_an_axis_comes_and_goes(x):
    """A replacement of the class that it replaces is not replaced again."""
    model = linen.BatchNorm(use_running_average=False, axis_name="device")
    without = {linen.BatchNorm: lambda norm: norm.clone(axis_name=None)}
    apply, variables = linen.replace_norms(model, without, model.init(KEY, x), x)
    expected = linen.BatchNorm(use_running_average=False).apply(
        variables, x, mutable=["batch_stats"]
    )
    chex.assert_trees_all_equal(apply(variables, x, mutable=["batch_stats"]), expected)


def test_a_mask_is_handed_on(x):
    model, mask = nn.BatchNorm(use_running_average=False), x[..., :1] > 0
    init = linen.replaced(model.init, {nn.BatchNorm: lambda n: linen.InstanceNorm()})
    _, variables = jax.eval_shape(lambda: (0, init(KEY, x, mask=mask)))
    assert set(variables) == {"params"}
    apply = linen.replaced(model.apply, {nn.BatchNorm: lambda n: linen.InstanceNorm()})
    variables = init(KEY, x)
    np.testing.assert_array_equal(
        apply(variables, x, mask=mask),
        linen.InstanceNorm().apply(variables, x, mask=mask),
    )


def test_a_group_of_one_value():
    model, x = nn.BatchNorm(use_running_average=False), jnp.ones((5, 4))
    with pytest.warns(UserWarning, match="at least two values"):
        linen.replace_norms(
            model,
            {nn.BatchNorm: lambda norm: linen.GroupNorm(num_groups=4)},
            model.init(KEY, x),
            x,
        )


@pytest.mark.usefixtures("as_users_run_it")
def test_variables_of_which_a_part_would_be_forgotten(x, variables):
    """The model would start anew, without a word."""
    groups = {nn.BatchNorm: lambda norm: linen.GroupNorm(num_groups=2)}
    ours = {
        nn.BatchNorm: lambda norm: linen.BatchNorm(
            use_running_average=norm.use_running_average
        )
    }
    params, model = variables["params"], Net(nn.BatchNorm, {})
    wide = {**params["Dense_0"], "kernel": jnp.ones((4, 7))}
    wrong = {
        "params": (params, groups, "params/Conv_0/bias"),
        "the statistics": (variables["batch_stats"], groups, "params/Conv_0/bias"),
        "no statistics": ({"params": params}, ours, "batch_stats/first/mean"),
        "another shape": (
            {**variables, "params": {**params, "Dense_0": wide}},
            groups,
            "params/Dense_0/kernel",
        ),
        "no dict": (model, groups, "Net"),
    }
    for given, replacements, says in wrong.values():
        with refused("variables", '"batch_stats"', says):
            linen.replace_norms(model, replacements, given, x, train=True)
    linen.replace_norms(model, groups, {"params": params}, x, train=True)


def test_nothing_to_replace(x):
    model = nn.Dense(3)
    with refused("LayerNorm"):
        linen.replace_norms(
            model, {nn.LayerNorm: lambda n: linen.RMSNorm()}, model.init(KEY, x), x
        )
    compiled = nn.jit(nn.LayerNorm)()
    variables = compiled.init(KEY, x)  # traces it
    with refused("LayerNorm", "nn.jit"):
        linen.replace_norms(
            compiled, {nn.LayerNorm: lambda n: linen.RMSNorm()}, variables, x
        )
    with refused("compiled"):
        linen.replaced(jax.jit(model.apply), {})


@pytest.mark.parametrize("made", [linen.RMSNorm, linen.RMSNorm(), "RMSNorm"])
def test_a_replacement_that_is_not_a_function_is_an_error(x, made):
    """The class itself would take the old module for its first argument."""
    model = nn.LayerNorm()
    with refused("replacements", "LayerNorm: lambda norm"):
        linen.replace_norms(model, {nn.LayerNorm: made}, model.init(KEY, x), x)
    with refused("replacements", "dict", "LayerNorm"):
        linen.replace_norms(model, nn.LayerNorm, model.init(KEY, x), x)
    with refused("return a module", "NoneType"):
        linen.replace_norms(
            model, {nn.LayerNorm: lambda norm: None}, model.init(KEY, x), x
        )


class ByDomain(linen.BatchNorm):
    """Takes what a domain batch norm is called with."""

    def __call__(self, x, domain):
        return super().__call__(x)


def test_other_arguments_of_the_call(x):
    model = linen.DomainBatchNorm(num_domains=2, use_running_average=True)
    variables = jax.jit(model.init)(KEY, x, 0)
    without = {linen.DomainBatchNorm: lambda norm: linen.BatchNorm()}
    with refused("BatchNorm in place of DomainBatchNorm", "domain", "super"):
        linen.replace_norms(model, without, variables, x, 0)
    without = {linen.DomainBatchNorm: lambda norm: ByDomain(use_running_average=True)}
    apply, variables = linen.replace_norms(model, without, variables, x, 0)
    assert variables["batch_stats"]["mean"].shape == x.shape[-1:]
    assert apply(variables, x, 0).shape == x.shape
    with refused("GraphNorm in place of LayerNorm", "segment_ids"):
        without = {nn.LayerNorm: lambda norm: linen.GraphNorm()}
        linen.replace_norms(nn.LayerNorm(), without, variables, x)


class OfInputs(nn.Module):
    """A user's norm, with another name for x."""

    @nn.compact
    def __call__(self, inputs, mask=None):
        return nn.LayerNorm()(inputs, mask=mask)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_class_that_calls_its_input_otherwise(by_name, x):
    args, kwargs = ((), {"inputs": x}) if by_name else ((x,), {})
    without = {OfInputs: lambda norm: linen.RMSNorm()}
    apply, variables = linen.replace_norms(OfInputs(), without, {}, *args, **kwargs)
    assert set(variables["params"]) == {"scale"}
    expected = linen.RMSNorm().apply(variables, x)
    np.testing.assert_array_equal(apply(variables, *args, **kwargs), expected)


def test_a_model_of_nnx(x):
    with refused("function", "Linear", "jaxnorm.nnx.replace_norms"):
        linen.replaced(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {})
    with refused("function", "Dense", "model.apply"):
        linen.replaced(nn.Dense(3), {})
    with refused("Linear", "jaxnorm.nnx.replace_norms"):
        linen.replace_norms(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), {}, {}, x)


@pytest.mark.parametrize("boxed_model", [True, False])
@pytest.mark.parametrize("boxed_replacement", [True, False])
@pytest.mark.parametrize("boxed_variables", [True, False])
def test_learned_values_are_kept_with_and_without_partitioning(
    boxed_model, boxed_replacement, boxed_variables
):
    partitioned = nn.with_partitioning(nn.initializers.ones, ("features",))
    inits = {True: partitioned, False: nn.initializers.ones}
    model = nn.Sequential([nn.LayerNorm(scale_init=inits[boxed_model])])
    x = jnp.arange(12.0).reshape(3, 4)
    variables = jax.tree.map(lambda v: v + 1.5, model.init(jax.random.key(0), x))
    if not boxed_variables:
        variables = nn.meta.unbox(variables)
    apply, kept = linen.replace_norms(
        model,
        {
            nn.LayerNorm: lambda norm: linen.LayerNorm(
                scale_init=inits[boxed_replacement]
            )
        },
        variables,
        x,
    )
    assert jax.tree.structure(kept) == jax.tree.structure(variables)
    np.testing.assert_allclose(apply(kept, x), model.apply(variables, x), rtol=1e-5)
