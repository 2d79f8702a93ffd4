"""What is frozen stays bit for bit; everything else trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from support import family
from support.drawing import place
from support.family_entries import program
from support.family_modules import TABLE, draw_variables
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.linen
from jaxnorm.linen.module import BatchModule
from jaxnorm.tools import freeze_parameters


class Model(nn.Module):
    """Batch norms in two places, one of them rematerialized, and a layer norm."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        norm = nn.remat(jaxnorm.linen.BatchNorm)
        x = nn.relu(norm(use_running_average=not train, name="first")(x))
        x = jaxnorm.linen.LayerNorm(name="layer")(nn.Dense(5)(x))
        x = jaxnorm.linen.BatchNorm(name="second")(x, not train)
        return nn.Dense(2)(x.mean((1, 2)))


BATCH_NORMS = {"first", "second"}


# optax needs it
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=(6, 5, 5, 3)))


@pytest.fixture
def variables(x):
    """Not at their initial values, where too little would move."""
    rng = np.random.default_rng(1)
    init = functools.partial(Model().init, train=False)
    return jax.tree.map(
        lambda leaf: place(rng.uniform(0.1, 1, leaf.shape), leaf.dtype),
        jax.eval_shape(init, jax.random.key(0), x),
    )


def moved(apply, optimizer, variables, x, steps=3):
    """The paths of what is different after some steps of training."""

    def step(carry, _):
        variables, state = carry

        def loss(params):
            y, updates = apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        change, state = optimizer.update(gradients, state, variables["params"])
        params = optax.apply_updates(variables["params"], change)
        return ({"params": params, **updates}, state), None

    @jax.jit
    def train(variables):
        start = variables, optimizer.init(variables["params"])
        return jax.lax.scan(step, start, length=steps)[0][0]

    after = train(variables)
    flat = jax.tree_util.tree_flatten_with_path(after)[0]
    return {
        (path[0].key, path[1].key)
        for (path, new), old in zip(flat, jax.tree.leaves(variables), strict=True)
        if not np.array_equal(new, old)
    }, {(path[0].key, path[1].key) for path, _ in flat}


def adamw():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=1))


def test_everything_moves_by_default(variables, x):
    changed, everything = moved(Model().apply, adamw(), variables, x)
    assert changed == everything


def test_both(variables, x):
    apply, optimizer = jaxnorm.linen.freeze_batch_norms(
        Model().apply, adamw(), variables
    )
    changed, everything = moved(apply, optimizer, variables, x)
    assert everything - changed == {
        (collection, name)
        for collection in ("params", "batch_stats")
        for name in BATCH_NORMS
    }
    assert changed == {("params", n) for n in ("Conv_0", "Dense_0", "Dense_1", "layer")}


def test_statistics_alone(variables, x):
    apply = jaxnorm.linen.frozen_statistics(Model().apply)
    changed, everything = moved(apply, adamw(), variables, x)
    assert everything - changed == {("batch_stats", name) for name in BATCH_NORMS}


def test_parameters_alone(variables, x):
    optimizer = freeze_parameters(adamw(), variables)
    changed, everything = moved(Model().apply, optimizer, variables, x)
    assert everything - changed == {("params", name) for name in BATCH_NORMS}


def test_parameters_alone_over_several_steps(variables, x):
    steps = optax.MultiSteps(adamw(), every_k_schedule=1)
    with refused("optimizer", "MultiSteps", "gradient_transformation"):
        freeze_parameters(steps, variables)
    optimizer = freeze_parameters(steps.gradient_transformation(), variables)
    changed, everything = moved(Model().apply, optimizer, variables, x)
    assert everything - changed == {("params", name) for name in BATCH_NORMS}


def test_parameters_of_all_normalizers(variables):
    optimizer = freeze_parameters(optax.sgd(0.1), variables, only_with_statistics=False)
    params = variables["params"]
    change, _ = optimizer.update(params, optimizer.init(params), params)
    still = {name for name, node in change.items() if not node["bias"].any()}
    assert still == BATCH_NORMS | {"layer"}


def test_the_optimizer_keeps_nothing_of_what_is_frozen(variables):
    state = freeze_parameters(optax.adam(0.1), variables).init(variables["params"])
    kept = [
        jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    assert any("layer" in path for path in kept)
    assert not any(name in path for name in BATCH_NORMS for path in kept)


def test_gradients_that_are_not_finite_do_not_reach_what_is_frozen(variables):
    optimizer = freeze_parameters(optax.sgd(0.1), variables)
    params = variables["params"]
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    change, _ = optimizer.update(gradients, optimizer.init(params), params)
    after = optax.apply_updates(params, change)
    jax.tree.map(np.testing.assert_array_equal, after["first"], params["first"])


def test_nothing_to_freeze_is_an_error(variables):
    with pytest.raises(ValueError, match=r'got none with running.*"batch_stats"'):
        freeze_parameters(optax.sgd(0.1), variables["params"])


def is_batch_module(name):
    return issubclass(getattr(jaxnorm.linen, name), BatchModule)


@pytest.mark.parametrize(
    "name",
    matrix(
        [*filter(is_batch_module, TABLE), "BatchNormLSTMCell"],
        often=("BatchNorm", "BatchRenorm", "RunningNorm", "SwitchableNorm"),
    ),
)
def test_frozen_statistics_are_used_and_kept(name):
    entry, rows = TABLE[name], family.TABLE["rms_norm"]
    x, *_ = family.draw_arguments(rows, 0)
    variables = draw_variables(name, x)
    mask = family.draw_mask(rows) if entry.masked else None

    def apply(train):
        module = entry.build(train)
        return functools.partial(entry.apply, module, mask=mask, train=train)

    def frozen(variables, x):
        wrapped = jaxnorm.linen.frozen_statistics(apply(True))
        return wrapped(variables, x, mutable=["batch_stats"])

    def inference(variables, x):
        stats = {"batch_stats": variables["batch_stats"]}
        return apply(False)(variables, x), stats

    if name != "BatchNormLSTMCell":
        assert program(frozen, variables, x) == program(inference, variables, x)
        return
    # which carries the statistics through the scan in one of them
    actual, expected = jax.jit(lambda *args: (frozen(*args), inference(*args)))(
        variables, x
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_compiled_apply_is_an_error():
    with pytest.raises(TypeError, match="must not be compiled"):
        jaxnorm.linen.frozen_statistics(jax.jit(Model().apply))


def test_variables_of_several_models_are_an_error(variables):
    for wrong in ([variables], (None, variables)):
        with refused("variables", type(wrong).__name__, "model"):
            freeze_parameters(optax.sgd(0.1), wrong)


def test_an_apply_or_optimizer_of_another_type_is_an_error(variables):
    optimizer = optax.sgd(0.1)
    for apply in (Model(), nn.Sequential([nn.Dense(3)]), Model, variables):
        with refused("apply", "model.apply"):
            jaxnorm.linen.freeze_batch_norms(apply, optimizer, variables)
    in_nnx = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    with refused("apply", "jaxnorm.nnx.freeze_statistics"):
        jaxnorm.linen.freeze_batch_norms(in_nnx, optimizer, variables)
    with refused("optimizer", "dict"):
        jaxnorm.linen.freeze_batch_norms(Model().apply, variables, optimizer)


def test_other_classes_are_not_passed_over(x):
    model = nn.Sequential([nn.BatchNorm(use_running_average=True)])
    variables = jax.jit(model.init)(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"got one of flax\.linen, layers_0"):
        jaxnorm.linen.frozen_statistics(model.apply)(variables, x)


def of_flax(norm):
    return nn.BatchNorm(use_running_average=norm.use_running_average)


def ours(norm):
    return jaxnorm.linen.BatchNorm(use_running_average=norm.use_running_average)


def test_a_batch_norm_of_flax_that_is_replaced(x):
    """It is frozen, whatever is wrapped first; one that replaces ours is refused."""
    model, replacements = nn.BatchNorm(use_running_average=False), {nn.BatchNorm: ours}
    variables = jax.jit(model.init)(jax.random.key(0), x)
    freeze, replaced = jaxnorm.linen.frozen_statistics, jaxnorm.linen.replaced
    expected = nn.BatchNorm(use_running_average=True).apply(variables, x)
    for apply in (
        freeze(replaced(model.apply, replacements)),
        replaced(freeze(model.apply), replacements),
    ):
        y, updates = apply(variables, x, mutable=["batch_stats"])
        np.testing.assert_allclose(y, expected, atol=1e-6)
        for name, value in variables["batch_stats"].items():
            np.testing.assert_array_equal(updates["batch_stats"][name], value)

    model = jaxnorm.linen.BatchNorm(use_running_average=False)
    back = replaced(model.apply, {jaxnorm.linen.BatchNorm: of_flax})
    with refused("jaxnorm.linen", "flax.linen"):
        freeze(back)(variables, x, mutable=["batch_stats"])
