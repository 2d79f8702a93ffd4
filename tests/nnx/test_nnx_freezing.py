"""What is frozen stays bit for bit, whatever mode the model is in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.drawing import place
from support.nnx_modules import TRAINED, build, call, draw_variables, load, values
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.linen
import jaxnorm.nnx


@pytest.mark.parametrize(
    "name",
    matrix(
        [*TRAINED, "BatchNormLSTMCell"],
        often=("BatchNorm", "BatchRenorm", "RunningNorm", "EvoNormB0"),
    ),
)
def test_each_normalizer_through_changes_of_mode(name, rng):
    x = place(rng.normal(size=(4, 6, 4)))
    module = load(build(name), draw_variables(name, x))
    jaxnorm.nnx.freeze_statistics(module)

    @nnx.jit
    def run(module, x):
        results = []
        for mode in (module.train, module.eval):
            mode()
            results.append(call(name, module, x))
        view = nnx.view(module, use_running_average=False)
        return *results, call(name, view, x)

    before = values(module)
    frozen = run(module, x)
    for y in frozen[1:]:
        np.testing.assert_array_equal(y, frozen[0])
    jax.tree.map(np.testing.assert_array_equal, values(module), before)
    jaxnorm.nnx.freeze_statistics(module, frozen=False)
    module.train()
    nnx.jit(lambda module, x: call(name, module, x))(module, x)
    changed = jax.tree.map(lambda a, b: np.any(a != b), values(module), before)
    assert any(changed.values())


class Model(nnx.Module):
    def __init__(self, rngs, norm=jaxnorm.nnx.BatchNorm):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norm = norm(4, rngs=rngs)
        self.layer = jaxnorm.nnx.LayerNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.layer(jnp.sin(self.norm(self.linear(x))))


def test_training_moves_all_but_the_batch_norms(rng):
    model = Model(nnx.Rngs(0))
    transform = jaxnorm.nnx.freeze_batch_norms(model, optax.adamw(0.1, weight_decay=1))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    x = place(rng.normal(size=(5, 3)))

    @nnx.jit
    def step(model, optimizer, x):
        model.train()
        gradients = nnx.grad(lambda model: jnp.sum(jnp.sin(model(x)) * x[:, :1]))(model)
        optimizer.update(model, gradients)

    before = nnx.to_pure_dict(nnx.state(model))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            step(model, optimizer, x)
    after = nnx.to_pure_dict(nnx.state(model))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), before, after)
    assert all(same.pop("norm").values())
    assert not any(jax.tree.leaves(same))


def test_freezing_another_type_is_an_error():
    with refused("jaxnorm.nnx.BatchNorm", "norm"):
        jaxnorm.nnx.freeze_statistics(Model(nnx.Rngs(0), nnx.BatchNorm))
    with refused("none", "Linear"):
        jaxnorm.nnx.freeze_statistics(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    linen = jaxnorm.linen.BatchNorm(use_running_average=False)
    for model in (linen, Model(nnx.Rngs(0)).__call__, optax.sgd(0.1)):
        with refused("model", "nnx.Module", "jaxnorm.linen"):
            jaxnorm.nnx.freeze_batch_norms(model, optax.sgd(0.1))
    of_parameters = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    with refused("variables", "an NNX or Equinox model itself"):
        jaxnorm.tools.freeze_parameters(optax.sgd(0.1), of_parameters)
    with refused("optimizer", "dict"):
        jaxnorm.nnx.freeze_batch_norms(Model(nnx.Rngs(0)), {})


def test_nothing_is_frozen_where_not_all_can_be():
    model = nnx.List([Model(nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0))])
    with refused("jaxnorm.nnx.BatchNorm"):
        jaxnorm.nnx.freeze_statistics(model)
    assert not model[0].norm.frozen_statistics
