"""Whole programs in examples/benchmark.py, at tiny sizes: that they run; their rows.

Times are not judged.
"""

import functools
import json
import sys

import benchmark
import jax
import pytest
from compilers.programs import compared
from compilers.steps import make_step
from timing.table import program_rows

import jaxnorm.linen

TINY = {
    "layer": (8, 64, 64),
    "chain": (2, 4, 4, 8),
    "transformer-rms": (2, 4, 8),
    "unet": (1, 4, 4, 32),
    "resnet50": (2, 32, 32, 3),
    "segment-rms": (8, 64, 64),
}


@pytest.fixture
def without_torch(monkeypatch):
    """Which takes long to compile, and is in a test of its own."""
    monkeypatch.setattr("timing.table.torch_steps", lambda *of: {})


# The rest run the same steps, of other networks.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "layer" else pytest.mark.slow)
        for name in TINY
    ],
)
@pytest.mark.usefixtures("without_torch")
def test_a_program_is_timed(name):
    timer = functools.partial(benchmark.interleaved, repeats=2)
    with jax.numpy_dtype_promotion("standard"):
        rows = list(program_rows(name, "bfloat16", TINY[name], timer))
    figures = {row["library"]: row for row in rows}
    expected = set(compared(name))
    if name in ("chain", "resnet50"):
        expected.add("jaxnorm with policy")
    assert figures.keys() == expected
    assert figures["jaxnorm"]["ratio"] == "1"
    for library in expected:
        assert float(figures[library]["memory, MiB"]) > 0
    number, unit = figures["jaxnorm"]["a second"].split()
    assert int(number.replace(",", "")) > 0
    assert unit == ("tokens" if len(TINY[name]) == 3 else "images")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in TINY if name != "segment-rms"])
def test_the_networks_of_pytorch(name):
    """Eager: their step runs, and they have as many parameters as ours."""
    pytest.importorskip("torch")
    from timing.torch_networks import make_network, make_torch_step

    run, _ = make_torch_step(name, "float32", TINY[name], "cpu", compiled=False)
    run().block_until_ready()

    theirs = make_network(name, TINY[name][-1])
    ours = make_step(name, "training", jaxnorm.linen, "float32", TINY[name])
    ours = jax.tree.leaves(ours.variables["params"])
    assert sum(x.size for x in ours) == sum(x.numel() for x in theirs.parameters())


@pytest.mark.usefixtures("without_torch")
def test_json_has_the_rows_of_the_tables(tmp_path, monkeypatch, capsys):
    lines = tmp_path / "lines"
    options = ["--norm=rms", "--program=rms", "--shape=2,4,8", "--dtype=float32"]
    options += ["--repeats=2", f"--json={lines}"]
    monkeypatch.setattr(sys, "argv", [benchmark.__file__, *options])
    benchmark.main()
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {(row["jax"], row["library"]) for row in rows} >= {
        (jax.__version__, "jaxnorm"),
        (jax.__version__, "flax.linen"),
    }
    printed = capsys.readouterr().out
    titles = "A training step of one layer", "A training step of a program"
    assert all(title in printed for title in titles)
    kinds = [("norm" in row, "program" in row) for row in rows]
    assert set(kinds) == {(True, False), (False, True)}
