"""Whole models without their batch norms, and the check that they agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.layer_and_norm import Pair, draw_like, draw_variables, error
from support.refusals import refused

import jaxnorm.linen
from jaxnorm.tools import Fold, fold_model, suggest_folds


class CNN(nn.Module):
    """Names as Flax gives them, a block, and numbers of features that tell."""

    norms: bool = True

    @nn.compact
    def __call__(self, x):
        def norm(x, **options):
            if not self.norms:
                return x
            return jaxnorm.linen.BatchNorm(use_running_average=True, **options)(x)

        x = nn.relu(norm(nn.Conv(5, (3, 3), use_bias=not self.norms)(x)))
        x = nn.relu(norm(nn.Conv(6, (3, 3), strides=2)(x)))
        x = x + Block(norms=self.norms, name="block")(x)
        x = nn.relu(norm(nn.Dense(7)(x.mean((1, 2))), use_scale=False))
        return nn.Dense(3)(x)


class Block(nn.Module):
    norms: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="conv1")(x)
        if self.norms:
            norm = jaxnorm.linen.BatchNorm(use_running_average=True, name="bn1")
            x = norm(x)
        return nn.relu(x)


@pytest.fixture
def images(rng):
    return place(rng.normal(size=(4, 8, 8, 2)))


def test_a_cnn_with_suggested_pairs(images):
    model, folded_model = CNN(), CNN(norms=False)
    apply, folded_apply = jax.jit(model.apply), jax.jit(folded_model.apply)
    variables = draw_variables(model, images)
    before = jax.tree.map(np.array, variables)
    folds = suggest_folds(variables)
    assert {(fold.layer, fold.norm) for fold in folds} == {
        (("Conv_0",), ("BatchNorm_0",)),
        (("Conv_1",), ("BatchNorm_1",)),
        (("block", "conv1"), ("block", "bn1")),
        (("Dense_0",), ("BatchNorm_2",)),
    }
    folded = fold_model(
        variables,
        folds,
        apply=apply,
        folded_apply=folded_apply,
        batch=images,
    )
    y = folded_apply(folded, images)
    assert error(y, apply(variables, images)) < 1e-5
    expected = jax.eval_shape(folded_model.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, folded) == jax.tree.map(np.shape, expected)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


class Net(nnx.Module):
    """With flax.nnx's own norms; the norms in one node with their statistics."""

    def __init__(self, norms, rngs):
        bias = {"use_bias": not norms}
        self.conv1 = nnx.Conv(2, 5, (3, 3), **bias, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(5, 4, rngs=rngs)])
        self.norms = norms
        if norms:
            options = {"use_running_average": True, "rngs": rngs}
            self.bn1 = nnx.BatchNorm(5, **options)
            self.layers.append(nnx.BatchNorm(4, use_scale=False, **options))

    def __call__(self, x):
        x = self.conv1(x)
        x = nnx.relu(self.bn1(x) if self.norms else x)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.full
def test_an_nnx_model(images):
    state, apply = {}, {}
    for norms in (True, False):
        graph, state[norms] = nnx.split(Net(norms, nnx.Rngs(0)))

        def run(variables, x, norms=norms, graph=graph):
            own = jax.tree.map(lambda leaf: leaf, state[norms])
            nnx.replace_by_pure_dict(own, variables)
            return nnx.merge(graph, own)(x)

        apply[norms] = jax.jit(run)
    variables = draw_like(nnx.to_pure_dict(state[True]))
    folds = suggest_folds(variables)
    assert {(fold.layer, fold.norm) for fold in folds} == {
        (("conv1",), ("bn1",)),
        (("layers", 0), ("layers", 1)),
    }
    folded = fold_model(
        variables, folds, apply=apply[True], folded_apply=apply[False], batch=images
    )
    assert set(folded) == {"conv1", "layers"}
    y = apply[False](folded, images)
    assert error(y, apply[True](variables, images)) < 1e-5


class Chain(nn.Module):
    """A norm before two layers, one of which has a norm after it, too."""

    norms: bool

    @nn.compact
    def __call__(self, x):
        def norm(name, x):
            layer = jaxnorm.linen.BatchNorm(use_running_average=True, name=name)
            return layer(x) if self.norms else x

        x = norm("first", x)
        y = norm("last", nn.Conv(3, (3, 3), padding="VALID", name="a")(x))
        return y, nn.Conv(3, (1, 1), name="b")(x)


def test_norms_before_several_layers(images):
    variables = draw_variables(Chain(True), images)
    folds = [
        Fold(("a",), ("first",), norm_first=True, padding="VALID"),
        Fold(("b",), ("first",), norm_first=True, padding="SAME"),
        Fold(("a",), ("last",)),
    ]
    check = {
        "apply": jax.jit(Chain(True).apply),
        "folded_apply": jax.jit(Chain(False).apply),
    }
    for order in (folds, folds[::-1]):
        folded = fold_model(variables, order, **check, batch=images)
        assert set(folded) == {"params"}
        assert set(folded["params"]) == {"a", "b"}
    with pytest.raises(ValueError, match="got a difference"):
        fold_model(variables, folds[1:], **check, batch=images)


PAIR = Fold(("layer",), ("norm",))


@functools.cache
def jitted(model):
    return jax.jit(model.apply)


def fold_pair(images, fold, model=None, **options):
    model = model or Pair(nn.Conv(4, (3, 3)))
    variables = options.pop("variables", None) or draw_variables(model, images)
    checks = {"apply": jitted(model), "folded_apply": jitted(Pair(model.layer, None))}
    return fold_model(variables, [fold], **(checks | options), batch=images)


def test_an_activation_in_between_is_found(images):
    class Relu(Pair):
        @nn.compact
        def __call__(self, x):
            norm = jaxnorm.linen.BatchNorm(use_running_average=True, name="norm")
            return norm(nn.relu(self.layer(x)))

    with pytest.raises(ValueError, match=r"a difference of [\d.]+\. .* an activation"):
        fold_pair(images, PAIR, Relu(nn.Conv(4, (3, 3))))


def test_padding_and_epsilon_that_are_not_as_said_are_found(images):
    first = dataclasses.replace(PAIR, norm_first=True, padding="VALID")
    valid = Pair(nn.Conv(4, (3, 3), padding="VALID"), norm_first=True)
    fold_pair(images, first, valid)
    with pytest.raises(ValueError, match="zero padding"):
        fold_pair(images, first, Pair(nn.Conv(4, (3, 3)), norm_first=True))
    with pytest.raises(ValueError, match=r"1e-3 in Keras"):
        fold_pair(images, dataclasses.replace(PAIR, epsilon=1e-3))


def test_nan_does_not_pass_the_check(images):
    with pytest.raises(ValueError, match="a difference of nan"):
        fold_pair(
            images,
            PAIR,
            folded_apply=lambda variables, x: place(np.full((4, 8, 8, 4), np.nan)),
        )


@pytest.mark.parametrize(
    ("wrong", "message"), [((), "same structure"), (place(np.ones(3)), "same shapes")]
)
def test_outputs_of_another_kind_do_not_pass_the_check(wrong, message, images):
    with pytest.raises(ValueError, match=message):
        fold_pair(images, PAIR, folded_apply=lambda variables, x: wrong)


@pytest.mark.parametrize(
    ("change", "error_type", "message"),
    [
        (
            {"layer": ("conv",)},
            ValueError,
            r"layer must be the path .* got \('conv',\).*\('layer',\)",
        ),
        ({"norm": ("norm", "x")}, ValueError, "norm must be the path"),
        ({"norm": ("layer",)}, ValueError, "must have mean and var"),
        ({"layer": ("norm",)}, ValueError, "must have kernel"),
        ({"out_axes": -2}, ValueError, "layer's outputs"),
        ({"norm_first": True, "padding": "SAME"}, ValueError, "Padded zeros"),
    ],
)
def test_bad_pairs_are_errors(change, error_type, message, images):
    with pytest.raises(error_type, match=message):
        fold_pair(images, dataclasses.replace(PAIR, **change))


@pytest.mark.parametrize(
    ("folds", "says"),
    [(PAIR, "got Fold"), ([(("layer",), ("norm",))], "one of tuple"), (1, "got int")],
)
def test_folds_are_several(folds, says, images, as_users_run_it):
    variables = draw_variables(Pair(nn.Conv(4, (3, 3))), images)
    with refused("folds", says):
        fold_model(variables, folds, apply=id, folded_apply=id, batch=images)


def test_a_path_must_be_a_tuple(images, as_users_run_it):
    with pytest.raises(TypeError, match="must be a tuple of keys"):
        fold_pair(images, dataclasses.replace(PAIR, layer="layer"))


def test_an_error_names_the_pair(images):
    with pytest.raises(ValueError) as caught:
        fold_pair(images, dataclasses.replace(PAIR, out_axes=-2))
    assert "('norm',), the layer is ('layer',)" in caught.value.__notes__[0]


def test_other_normalizers_are_not_folded(images):
    variables = draw_variables(Pair(nn.Conv(4, (3, 3))), images)
    variables["params"]["norm"]["gate"] = place(np.ones(4))
    with pytest.raises(ValueError, match="Only a batch norm"):
        fold_pair(images, PAIR, variables=variables)


def test_boxes_are_an_error(images):
    boxed = nn.with_partitioning(nn.initializers.ones, (None,) * 4)
    model = Pair(nn.Conv(4, (3, 3), kernel_init=boxed))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(TypeError, match="unbox"):
        fold_pair(images, PAIR, model, variables=variables)


def sketch(layers, norms, features=3):
    """Variables of layers and norms by name, with as many features each."""
    nodes = {name: {"kernel": place(np.ones((2, n)))} for name, n in layers.items()}
    for name in norms:
        count = norms[name] if isinstance(norms, dict) else features
        nodes[name] = {"mean": place(np.zeros(count)), "var": place(np.ones(count))}
    return {"block": nodes}


@pytest.mark.parametrize(
    ("layers", "norms", "pairs"),
    [
        (["conv1", "conv2"], ["bn1", "bn2"], {"conv1": "bn1", "conv2": "bn2"}),
        (["Conv_0", "Conv_1"], ["BatchNorm_1"], {"Conv_1": "BatchNorm_1"}),
        (["conv_proj", "conv"], ["norm_proj"], {"conv_proj": "norm_proj"}),
        (["ConvTranspose_0"], ["BatchNorm_0"], {"ConvTranspose_0": "BatchNorm_0"}),
        (["fc"], ["bn"], {"fc": "bn"}),
        ([0, 3], [1, 4], {0: 1, 3: 4}),
        (["layers_9", "layers_0"], ["layers_10"], {"layers_9": "layers_10"}),
        (["downsample_0", "conv1"], ["downsample_1"], {"downsample_0": "downsample_1"}),
        (["Conv_0", "Dense_0"], ["BatchNorm_0"], {}),  # either fits
        (["mixer", "head"], ["BatchNorm_0"], {}),
        (["mixer"], ["BatchNorm_0"], {"mixer": "BatchNorm_0"}),  # the only one
        (["mixer"], ["BatchNorm_0", "BatchNorm_1"], {}),
    ],
)
def test_suggestions(layers, norms, pairs):
    variables = sketch(dict.fromkeys(layers, 3), norms)
    found = {fold.layer[-1]: fold.norm[-1] for fold in suggest_folds(variables)}
    assert found == pairs


def test_suggestions_agree_in_features_and_parent():
    assert not suggest_folds(sketch({"conv1": 4}, {"bn1": 3}))
    apart = sketch({"conv1": 3}, {}) | {"other": sketch({}, {"bn1": 3})["block"]}
    assert not suggest_folds(apart)
    (fold,) = suggest_folds(sketch({"conv1": 3}, ["bn1"]), epsilon=1e-3)
    assert fold.epsilon == 1e-3


class Transposed(nn.Module):
    """Of as many outputs as inputs in its second layer, where no shape tells."""

    norms: bool = True
    layout: bool = True

    @nn.compact
    def __call__(self, x):
        for features in (5, 5):
            layer = nn.ConvTranspose(
                features,
                (2, 3),
                use_bias=not self.norms,
                transpose_kernel=self.layout,
            )
            x = layer(x)
            if self.norms:
                x = jaxnorm.linen.BatchNorm(use_running_average=True)(x)
            x = nn.relu(x)
        return x


@pytest.mark.parametrize("layout", [True, False])
def test_suggestions_for_transposed_convolutions(layout, images):
    model, folded = (Transposed(norms, layout) for norms in (True, False))
    variables = draw_variables(model, images)
    folds = suggest_folds(variables, transpose_kernel=layout)
    axes = (-1, -2) if layout else (-2, -1)
    assert [(fold.in_axes, fold.out_axes) for fold in folds] == [axes] * 2
    fold_model(
        variables,
        folds,
        apply=jitted(model),
        folded_apply=jitted(folded),
        batch=images,
        tolerance=1e-4,
    )
    told = suggest_folds(variables)[0]  # by its shape
    assert (told.in_axes, told.out_axes) == axes


def test_an_autoencoder_is_not_taken_for_the_other_layout():
    """The inputs of a transposed convolution are as many as the norm before it has."""
    norms = {"BatchNorm_0": 8, "BatchNorm_1": 3}
    layers = {"Conv_0": 8, "ConvTranspose_0": 3}
    variables = sketch(layers, norms)
    kernel = variables["block"]["ConvTranspose_0"]["kernel"]
    variables["block"]["ConvTranspose_0"]["kernel"] = jnp.ones((8, kernel.shape[-1]))
    found = {fold.layer[-1]: fold.norm[-1] for fold in suggest_folds(variables)}
    assert found == {"Conv_0": "BatchNorm_0", "ConvTranspose_0": "BatchNorm_1"}


def test_a_folded_model_without_bias_is_a_usual_cause(images):
    def without_bias(variables, x):
        bare = {"params": {"layer": {"kernel": variables["params"]["layer"]["kernel"]}}}
        return Pair(nn.Conv(4, (3, 3), use_bias=False), None).apply(bare, x)

    with pytest.raises(ValueError, match="a folded model without bias"):
        fold_pair(images, PAIR, folded_apply=without_bias)
