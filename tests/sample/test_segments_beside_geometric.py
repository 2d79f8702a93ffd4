"""Norms of segments beside those of PyTorch Geometric: values and gradients."""

import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnorm

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
with warnings.catch_warnings():  # of libraries that are not there
    warnings.simplefilter("ignore")
    geometric = pytest.importorskip("torch_geometric.nn")

NODES, GRAPHS, FEATURES = 40, 5, 3  # no node is in the last graph


class Case(NamedTuple):
    theirs: object
    ours: object
    params: dict[str, str]  # by our name, theirs


CASES = {
    "graph_norm": Case(
        lambda: geometric.GraphNorm(FEATURES),
        jaxnorm.graph_norm,
        {"mean_scale": "mean_scale", "scale": "weight", "bias": "bias"},
    ),
    "graph_norm, as instance norm": Case(
        lambda: geometric.InstanceNorm(FEATURES, affine=True),
        jaxnorm.graph_norm,
        {"scale": "weight", "bias": "bias"},
    ),
    "segment_layer_norm": Case(
        lambda: geometric.LayerNorm(FEATURES, mode="graph"),
        jaxnorm.segment_layer_norm,
        {"scale": "weight", "bias": "bias"},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("mean", [0.5, 30.0])
def test_values_and_gradients(case, mean, rng):
    x = rng.normal(mean, 1, (NODES, FEATURES)).astype(np.float32)
    ids = rng.integers(GRAPHS - 1, size=NODES).astype(np.int32)  # in any order
    weight = rng.normal(size=x.shape).astype(np.float32)
    params = {name: np.float32(rng.normal(1, 0.3, FEATURES)) for name in case.params}

    module = case.theirs()
    module.load_state_dict({case.params[k]: torch.tensor(v) for k, v in params.items()})
    their_x = torch.tensor(x, requires_grad=True)
    theirs = module(their_x, torch.tensor(ids, dtype=torch.int64), GRAPHS)
    (theirs * torch.tensor(weight)).sum().backward()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(arguments):
        x, params = arguments
        options = {"segment_ids": ids, "num_segments": GRAPHS, "epsilon": 1e-5}
        y = case.ours(x, **params, **options)
        return jnp.sum(y * weight), y

    (_, y), (dx, dparams) = jax.jit(loss)((x, params))
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * mean}
    np.testing.assert_allclose(y, theirs.detach(), **tolerance)
    np.testing.assert_allclose(dx, their_x.grad, **tolerance)
    own = dict(module.named_parameters())
    for name, gradient in dparams.items():
        other = own[case.params[name]].grad
        np.testing.assert_allclose(gradient, other, rtol=1e-3, atol=1e-4 * mean)
