"""Which parameters of flax.nnx's modules are those of normalizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnorm.tools import freeze_parameters, normalization_mask


class Model(nnx.Module):
    """Norms of flax.nnx among other layers."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(8, 4, rngs=rngs)
        self.bias_alone = nnx.BatchNorm(4, use_scale=False, rngs=rngs)
        self.layers = nnx.List(
            [nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)]
        )
        self.conv = nnx.Conv(4, 4, (3,), rngs=rngs)
        self.norms = nnx.List(
            [
                nnx.LayerNorm(4, rngs=rngs),
                nnx.RMSNorm(4, rngs=rngs),
                nnx.GroupNorm(4, 2, rngs=rngs),
                nnx.InstanceNorm(4, rngs=rngs),
            ]
        )
        self.spectral = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)


BATCH = {"bias_alone/bias", "layers/1/scale", "layers/1/bias"}
EXAMPLE = {"norms/1/scale"} | {
    f"norms/{index}/{name}" for index in (0, 2, 3) for name in ("scale", "bias")
}


def marked(mask):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_flatten_with_path(mask)[0]
        if leaf
    }


@pytest.fixture
def model():
    return Model(nnx.Rngs(0))


def collections(model):
    return {
        "params": nnx.state(model, nnx.Param),
        "batch_stats": nnx.state(model, nnx.BatchStat),
    }


def test_masks(model):
    pure = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    for variables in (pure, nnx.state(model), collections(model)):
        assert marked(normalization_mask(variables)) == BATCH | EXAMPLE
        batch = normalization_mask(variables, only_with_statistics=True)
        assert marked(batch) == BATCH
    assert jax.tree.structure(normalization_mask(pure)) == jax.tree.structure(pure)
    parameters = normalization_mask(nnx.state(model, nnx.Param))
    assert marked(parameters) == (BATCH | EXAMPLE) - {"bias_alone/bias"}


def test_an_optimizer_of_nnx_leaves_them_alone():
    rngs = nnx.Rngs(0)
    norms = (nnx.BatchNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs))
    model = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), *norms)
    model.eval()  # nnx's own way to keep and use the statistics
    optimizer = nnx.Optimizer(
        model,
        freeze_parameters(optax.adamw(0.1, weight_decay=1), collections(model)),
        wrt=nnx.Param,
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)

    def loss(model):
        return jnp.sum(jnp.sin(model(x)))

    before = nnx.to_pure_dict(nnx.state(model))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        optimizer.update(model, nnx.grad(loss)(model))
    after = nnx.to_pure_dict(nnx.state(model))
    same = marked(jax.tree.map(np.array_equal, before, after))
    assert same == {f"layers/1/{name}" for name in ("scale", "bias", "mean", "var")}
