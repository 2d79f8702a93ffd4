"""examples/compiled.py on the CPU, and what it refuses."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilers import measure, programs, steps, targets

import jaxnorm.linen


def run(*options):
    return subprocess.run(
        [sys.executable, compiled.__file__, *options],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "JAX_PLATFORMS": "tpu"},
    )


def test_it_runs(tmp_path):
    """On the CPU, whatever accelerator the environment asks for."""
    result = run(
        *("--target=cpu", "--program=batch", "--step=training", "--dtype=float32"),
        *("--shape=8,4,4,8", "--devices=4", f"--json={tmp_path / 'lines'}"),
    )
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "lines").read_text().splitlines()
    ours, theirs = map(json.loads, lines)
    assert (ours["library"], theirs["library"]) == ("jaxnorm", "flax.linen")
    # At least: reads x twice and writes y, then reads x and dy and writes dx.
    assert ours["traffic"] == ours["traffic_in_x"] * 8 * 4 * 4 * 8 * 4
    assert ours["traffic_in_x"] >= 6
    assert ours["cycles"] is None
    assert ours["kernels"] > 1
    # A sum and one of squares forward, of 8 features; two sums backward.
    assert (ours["collectives_on_4"], ours["bytes_on_4"]) == (2, 4 * 4 * 8)
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert [row[4] for row in cells[2:]] == ["jaxnorm", "flax.linen", "ratio"]
    ratio = dict(zip(cells[0], cells[4], strict=True))["kernels"]
    assert ratio == f"{ours['kernels'] / theirs['kernels']:.3f}"
    assert "No figure is a\ntime measured on the accelerator." in result.stdout


@pytest.mark.parametrize("policy", [(), ("jaxnorm",), ("jaxnorm", "flax.linen")])
def test_whose_network_is_under_the_policy(policy):
    case = compiled.Case("chain", "training", "float32", (2, 4, 4, 8), policy)
    under = {
        library
        for library, step in case.steps().items()
        if "checkpoint_policy"
        in str(step.function.trace(step.variables, *step.batch).jaxpr)
    }
    assert under == set(policy)


def test_whose_blocks_are_rematerialized():
    case = compiled.Case(
        *("resnet50", "training", "float32", (2, 32, 32, 3)), ("jaxnorm",), blocks=True
    )
    rematerialized = {
        library: "CheckpointBottleneck_15" in step.variables["params"]
        for library, step in case.steps().items()
    }
    assert rematerialized == {"jaxnorm": True, "flax.linen": False}


def test_a_network_without_blocks():
    case = compiled.Case(
        *("chain", "training", "float32", (2, 4, 4, 8)), ("jaxnorm",), blocks=True
    )
    with pytest.raises(steps.BlockError, match="chain has no blocks that can be remat"):
        case.steps()


PARENTS = {
    name: program.parent
    for name, program in programs.PROGRAMS.items()
    if program.parent
}


@pytest.mark.parametrize("name", PARENTS)
def test_beside_the_parent(name):
    """Both can be traced; the gradients are those of all that holds numbers."""
    case = compiled.Case(name, "training", "float32", (2, 4, 8), ())
    both = case.steps()
    assert list(both) == ["jaxnorm", f"jaxnorm {PARENTS[name]}"]
    numbers = []
    for step in both.values():
        *inputs, cotangent = step.batch
        y, _, (_, *gradients) = jax.eval_shape(
            step.function, step.variables, *step.batch
        )
        numbers.append([x for x in inputs if x.dtype == cotangent.dtype])
        assert y.shape == cotangent.shape == (2, 4, 8)
        assert [x.shape for x in gradients] == [x.shape for x in numbers[-1]]
    gated = name.startswith("gated")
    assert [len(found) for found in numbers] == [1 + gated, 1]


MASKED = {
    "batch-masked": (2, 4, 4, 1),
    "layer-masked": (2, 1, 1, 32),
    "group-masked": (2, 4, 4, 1),
    "instance-masked": (2, 4, 4, 1),
}


@pytest.mark.parametrize("name", MASKED)
def test_beside_flax_with_one_mask(name):
    """Each is normalized with the statistics of what the mask lets count."""
    shape = 2, 4, 4, 32
    x = jax.random.normal(jax.random.key(0), shape)
    mask = jnp.arange(math.prod(MASKED[name])).reshape(MASKED[name]) % 3 > 0
    other = jnp.where(mask, x, jnp.array(9.0))  # but where nothing counts
    outputs = []
    for step in compiled.Case(name, "training", "float32", shape, ()).steps().values():
        assert [of.shape for of in step.batch] == [shape, MASKED[name], shape]
        variables = jax.tree.map(lambda of: jnp.ones(of.shape), step.variables)
        for values in (x, other):
            y, _, gradients = step.function(variables, values, mask, x)
            outputs.append(jnp.where(mask, y, jnp.array(0.0)))
        wanted = jax.tree.leaves([step.variables["params"], step.batch[0]])
        found = jax.tree.leaves(gradients)
        assert [of.shape for of in found] == [of.shape for of in wanted]
    for y in outputs[1:]:
        np.testing.assert_allclose(y, outputs[0], atol=1e-5)


def test_a_mistake_is_one_line_and_exit_code_2():
    result = run("--target=cpu", "--program=resnet50", "--shape=8,4")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "compiled.py: error: resnet50 does not accept an input of shape (8, 4): it "
        "must have 4 axes\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: --target"),
        (["--target=v99"], "argument --target: invalid choice: 'v99'"),
        (["--target=cpu", "--program=none"], "argument --program: invalid choice"),
        (["--target=cpu", "--shape=8,0"], "sizes must be positive integers, as in"),
        (["--target=cpu", "--shape=8,x"], "sizes must be positive integers, as in"),
        (["--target=cpu", "--devices=3"], "argument --devices: invalid choice: 3"),
    ],
)
def test_mistakes_on_the_command_line(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        compiled.make_parser().parse_args(options)
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("target", "package", "extra"),
    [("v5e:2x2", "libtpu", "tpu"), ("h100", "jax_cuda12_plugin", "gpu")],
)
def test_a_compiler_that_is_not_installed(target, package, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(targets.TargetError) as error:
        targets.compile_only_devices(target, 1)
    assert str(error.value) == (
        f"compiling for {target} needs the package {package}, which is not installed: "
        f"pip install -e '.[{extra}]'"
    )


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("chain", (8, 4, 4), "it must have 4 axes"),
        ("transformer-layer", (8, 4, 4, 8), "it must have 3 axes"),
        ("unet", (2, 4, 4, 33), "num_groups must divide the number of features"),
        ("group", (2, 4, 4, 40), "num_groups must divide the number of features"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, reason):
    with pytest.raises(steps.ShapeError) as error:
        steps.make_step(name, "training", jaxnorm.linen, "float32", shape)
    message = f"{name} does not accept an input of shape {shape}: {reason}"
    assert str(error.value).startswith(message)


def test_a_program_that_does_not_fit_into_memory():
    step = steps.make_step("layer", "training", jaxnorm.linen, "float32", (8, 16))
    device = jax.devices("cpu")[:1]
    # x, the cotangent, the output and the gradient; a scale and a bias and theirs.
    needed = 4 * (4 * 8 * 16 + 4 * 16)
    measure.measure(step, device, memory=2 * needed)
    for memory in (needed // 4, needed - 1):  # before it is compiled, and after
        with pytest.raises(measure.CompilationError, match="choose a smaller --shape"):
            measure.measure(step, device, memory=memory)
