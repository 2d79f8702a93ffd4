"""What cannot be converted is an error that says what is wrong and what to do."""

import numpy as np
import pytest
from support.refusals import refused

from jaxnorm import tools

pytestmark = pytest.mark.usefixtures("as_users_run_it")


def layer(**changes):
    arrays = {
        "weight": np.ones(3),
        "bias": np.zeros(3),
        "running_mean": np.zeros(3),
        "running_var": np.ones(3),
    }
    arrays |= changes
    return {f"bn1.{k}": v for k, v in arrays.items() if v is not None}


BN = {"bn1": ("BatchNorm_0",)}
FROM_TORCH = {
    "nothing found": (
        layer(running_mean=None, running_var=None),
        {},
        "must be a batch norm",
    ),
    "no such layer": (
        layer(),
        {"layers": {"bn2": ("b",)}},
        r"bn2.*Similar names: \['bn1'\]",
    ),
    "a layer by another name": (
        layer(),
        {"layers": {"zz": ("b",)}},
        r"none named 'zz'. Its layers: \['bn1'\]",
    ),
    "a checkpoint": ({"model": layer(), "epoch": 3}, {}, r"got dicts .*\['model'\]"),
    "a checkpoint, with the layers named": (
        {"model": layer(), "epoch": 3},
        {"layers": BN},
        r"got dicts .*\['model'\]",
    ),
    "an empty one": ({}, {"layers": BN}, "state_dict is empty"),
    "no variance": (layer(running_var=None), {}, "a mean together with var or std"),
    "no mean": (layer(running_mean=None), {"layers": BN}, "a mean together with var"),
    "another array": (layer(gate=np.ones(3)), {}, r"'bn1' has \['gate'\]"),
    "a convolution": (layer(weight=np.ones((3, 2, 1, 1))), {}, "is a normalizer"),
    "shapes that differ": (layer(bias=np.zeros(4)), {}, r"'bias': \(4,\)"),
    "no count": (layer(), {"counted": True}, "must have num_batches_tracked"),
    "counts": (
        layer(num_batches_tracked=np.arange(2)),
        {"counted": True},
        "count of 'bn1' must be a scalar",
    ),
    "integers": (layer(bias=np.zeros(3, int)), {}, "bias of 'bn1' must be floating"),
    "strings": (layer(bias=np.array(["a"] * 3)), {}, "bn1.bias must be a numeric"),
    "a path as a string": (layer(), {"layers": {"bn1": "bn1"}}, "needs a comma"),
    "one path twice": (
        layer() | {"bn2.weight": np.ones(3)},
        {"layers": {"bn1": ("b",), "bn2": ("b",)}},
        "'bn1' and 'bn2' must have different paths",
    ),
    "a layer within an array": (
        layer() | {"bn2.weight": np.ones(3)},
        {"layers": {"bn1": ("b",), "bn2": ("b", "scale")}},
        "is an array",
    ),
    "one element": (layer(), {"elements": 1}, "at least 2"),
    "elements of others": (layer(), {"elements": {"bn2": 3}}, r"\['bn1'\], got"),
}


@pytest.mark.parametrize("case", FROM_TORCH)
def test_from_torch(case):
    state_dict, options, says = FROM_TORCH[case]
    error = TypeError if case in ("integers", "strings", "a path as a string") else (
        ValueError
    )  # fmt: skip
    with pytest.raises(error, match=says):
        tools.norms_from_torch(state_dict, **options)


def variables(**changes):
    stats = {"mean": np.zeros(3), "var": np.ones(3)} | changes
    return {"batch_stats": {"bn": {k: v for k, v in stats.items() if v is not None}}}


TO_TORCH = {
    "nothing found": ({"params": {}}, {}, "must be a batch norm"),
    "no such layer": (
        variables(),
        {"layers": {"bn": ("BatchNorm_1",)}},
        r"none at \('BatchNorm_1',\).*layers are \[\('bn',\)\]",
    ),
    "parameters alone": ({"bn": {"scale": np.ones(3)}}, {"layers": BN}, '"params"'),
    "another array": (variables(gate=np.ones(3)), {}, "'gate'.*do not store"),
    "no variance": (variables(var=None), {}, "a mean together with"),
    "steps": (variables(count=np.ones(2)), {}, "must be a scalar"),
    "renorm": (variables(var=None, std=np.ones(3)), {}, "PyTorch stores, got std"),
    "one element": (variables(), {"elements": 1}, "at least 2"),
}


@pytest.mark.parametrize("case", TO_TORCH)
def test_to_torch(case):
    tree, options, says = TO_TORCH[case]
    with pytest.raises(ValueError, match=says):
        tools.norms_to_torch(tree, **options)


@pytest.mark.parametrize("pair", [("a",), ("a", "b"), "ab", ("a", ("b",))])
def test_layers_with_weight_norm_have_two_paths(pair):
    for convert in (tools.weights_from_torch, tools.weights_to_torch):
        with refused("layers", "'fc'", repr(pair), "(('WeightNorm_0',), ('Dense_0',))"):
            convert({}, {"fc": pair})


def test_a_checkpoint_in_place_of_its_weights():
    checkpoint = {"model": {"fc.weight_g": np.ones(2)}, "epoch": 3}
    for layers in (None, {"fc": (("WeightNorm_0",), ("Dense_0",))}):
        with refused("state_dict must hold arrays", "dicts at ['model']"):
            tools.weights_from_torch(checkpoint, layers)


def test_keras_calls_the_scale_of_rms_norms_scale():
    found = tools.norms_from_keras({"rms/scale": np.ones(3)}, {"rms": ("RMSNorm_0",)})
    assert found["params"].keys() == {"RMSNorm_0"}
    arrays = {"rms/scale": np.ones(3), "rms/gamma": np.ones(3)}
    with refused("one array of each kind", "'rms' has ['scale', 'gamma']"):
        tools.norms_from_keras(arrays, {"rms": ("RMSNorm_0",)})


class Elsewhere:
    """A tensor that is not on the CPU, as PyTorch has it."""

    def detach(self):
        return self

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    def __dlpack__(self, **options):
        raise BufferError("not for this device")

    def __dlpack_device__(self):
        return 2, 0


def test_a_tensor_on_another_device():
    with refused("bn1.running_mean must be", "on the CPU", "tensor.cpu()"):
        tools.norms_from_torch(layer(running_mean=Elsewhere()))


class Network:
    """A model of another framework in place of its arrays."""

    def state_dict(self):
        return layer()


@pytest.mark.parametrize(
    ("convert", "says"),
    [
        (tools.norms_from_torch, "net.state_dict()"),
        (tools.weights_from_torch, "net.state_dict()"),
        (tools.norms_from_keras, "model.variables"),
        (lambda net: tools.norms_from_haiku(net, {}), "transformed.init"),
        (tools.norms_to_torch, "batch_stats"),
        (tools.norms_to_keras, "batch_stats"),
        (tools.weights_to_torch, "batch_stats"),
        (tools.variables_from_nnx, "nnx.to_pure_dict"),
        (tools.variables_to_nnx, "batch_stats"),
        (lambda net: tools.insert_variables(net, {}), "batch_stats"),
        (lambda net: tools.insert_variables({}, net), "norms_from_torch"),
    ],
)
def test_a_model_in_place_of_its_arrays(convert, says):
    with refused("dict of arrays", "Network", says):
        convert(Network())


@pytest.mark.parametrize(
    "convert",
    [
        lambda layers: tools.norms_from_torch(layer(), layers),
        lambda layers: tools.norms_to_torch(variables(), layers),
        lambda layers: tools.weights_from_torch({}, layers),
        lambda layers: tools.weights_to_torch({}, layers),
        lambda layers: tools.norms_from_keras({}, layers),
        lambda layers: tools.norms_from_haiku({}, {}, layers),
    ],
)
def test_names_of_layers_without_their_paths(convert):
    with refused("layers", "must be a dict", "list"):
        convert(["bn1"])


MODEL = {
    "params": {
        "stem": {"bn": {"scale": np.ones(3), "bias": np.ones(3)}},
        "Dense_0": {"kernel": np.ones((3, 4))},
        "Conv_0": {"kernel": np.ones((3, 3, 1, 4))},
    },
    "batch_stats": {"stem": {"bn": {"mean": np.ones(3), "var": np.ones(3)}}},
}
NO_PLACE = {
    "a count": (
        {"batch_stats": {"stem": {"bn": {"count": np.ones(())}}}},
        ("counted=False", "momentum"),
    ),
    "another path": ({"params": {"bn1": {"scale": np.ones(3)}}}, ("('stem', 'bn')",)),
    "an array that no layer has": (
        {"params": {"bn1": {"gate": np.ones(3)}}},
        ("No layer has a gate", "('stem', 'bn')"),
    ),
    "no collection": ({"Dense_0": {"kernel": np.ones((3, 4))}}, ('{"params": ...}',)),
    "a dense kernel": ({"params": {"Dense_0": {"kernel": np.ones((4, 3))}}}, (".T",)),
    "a convolution": (
        {"params": {"Conv_0": {"kernel": np.ones((4, 1, 3, 3))}}},
        ("transpose(2, 3, 1, 0)",),
    ),
}


@pytest.mark.parametrize("case", NO_PLACE)
def test_what_does_not_fit_a_model(case):
    new, says = NO_PLACE[case]
    with pytest.raises(ValueError, match="must have") as caught:
        tools.insert_variables(MODEL, new)
    assert all(words in str(caught.value) for words in says), caught.value


TO_HAIKU = {
    "no counter": (variables(), {"counter": None}, "got neither"),
    "two counters": (variables(count=np.float32(1)), {}, "got both"),
    "a negative counter": (variables(), {"counter": -1}, "at least 0"),
    "shape": (variables(), {"shape": (1, 2)}, r"must match its features, \(3,\)"),
    "shape of another": (
        variables(),
        {"shape": {"b": (1, -1)}},
        "shape must be one value",
    ),
    "decay rate": (variables(), {"decay_rate": 1.0}, r"in \(0, 1\)"),
}


@pytest.mark.parametrize("case", TO_HAIKU)
def test_to_haiku(case):
    tree, options, says = TO_HAIKU[case]
    options = {"shape": (1, -1), "decay_rate": 0.9, "counter": 1} | options
    with pytest.raises(ValueError, match=says):
        tools.norms_to_haiku(tree, **options)


def test_from_haiku():
    average = {"average": np.zeros((1, 3)), "counter": np.array(1)}
    state = {f"bn/~/{name}": average for name in ("mean_ema", "var_ema")}
    with pytest.raises(ValueError, match="none named 'norm'"):
        tools.norms_from_haiku({}, state, {"norm": ("norm",)})
    with pytest.raises(ValueError, match="'bn' has 'w'"):
        tools.norms_from_haiku({"bn": {"w": np.ones((1, 3))}}, state)
    with pytest.raises(ValueError, match="a mean together with"):
        tools.norms_from_haiku({}, {"bn/~/mean_ema": average})
    with pytest.raises(ValueError, match=r"lacks \['counter'\]"):
        tools.norms_from_haiku({}, {"bn/~/mean_ema": {"average": np.zeros(3)}})
    with pytest.raises(ValueError, match="must be a batch norm"):
        tools.norms_from_haiku({}, {})


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum(momentum):
    for convert in (
        tools.momentum_from_torch,
        tools.momentum_to_torch,
        tools.momentum_from_haiku,
    ):
        with pytest.raises(ValueError, match=r"must lie in|must be a number"):
            convert(momentum)
    with pytest.raises(TypeError, match=r"must be a number.* another function"):
        tools.momentum_to_torch(tools.momentum_from_haiku(0.9))


def test_nnx():
    state = {"a": {"scale": 1, "mean": 2}, "b": {"scale": 3}}
    with pytest.raises(ValueError, match=r"got \[\('c',\)\], which have none"):
        tools.variables_from_nnx(state, {("c",): ("d",)})
    with pytest.raises(ValueError, match="a different path"):
        tools.variables_from_nnx(state, {("b",): ("a",)})
    with pytest.raises(ValueError, match="must differ"):
        tools.variables_from_nnx(state, {("a",): ("c",), ("b",): ("c",)})
    with pytest.raises(ValueError, match="cache"):
        tools.variables_to_nnx({"params": {}, "cache": {}})
    with pytest.raises(ValueError, match="a different path"):
        tools.variables_to_nnx({"params": {"mean": 1}, "batch_stats": {"mean": 2}})
