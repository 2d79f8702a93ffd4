"""The command lines of the examples: a mistake is told at once, and --help helps.

Here in this process, before anything is measured or trained. Those with absl's flags,
which are of the whole process, are in test_mnist_main.py and test_studies.py.
"""

import importlib.util
import json
import sys
from pathlib import Path

import load_run
import pytest
from support.tiers import matrix

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*.py")
    if "argparse" in (text := path.read_text()) or "Parser(__doc__)" in text
    if 'if __name__ == "__main__":' in text
)
WHOLE = "at least"
MISTAKES = [
    ("benchmark.py", ["--shape=a,b"], "as in 8,256,768; got 'a,b'"),
    ("benchmark.py", ["--shape=8x0x768"], "got '8x0x768'"),
    ("benchmark.py", ["--norm=group", "--shape=4x7"], "does not accept shape (4, 7)"),
    ("benchmark.py", ["--repeats=1"], WHOLE),
    ("benchmark.py", ["--dtype=float8"], "invalid choice"),
    ("accuracy.py", ["--figures=/dev/null/figures"], "cannot be made"),
    ("accuracy.py", ["--fast"], "--fast"),
    ("collectives.py", ["8"], "8"),
    ("folding.py", ["--batch=0"], WHOLE),
    ("folding.py", ["--repeats=x"], WHOLE),
    ("scaling.py", ["--devices=12"], "multiples of 8"),
    ("scaling.py", ["--devices=-8"], WHOLE),
    ("checkpointing.py", ["--pairs=1"], WHOLE),
    ("checkpointing.py", ["--every=0"], WHOLE),
    ("checkpointing.py", ["--num_train=0"], WHOLE),
    ("checkpointing.py", ["--directory=/nowhere"], "/nowhere is not there"),
    ("compiled.py", ["--target=h99"], "invalid choice"),
    ("mnist/diagnose.py", ["/nowhere"], "holds no run"),
    ("mnist/diagnose.py", ["/nowhere", "--num_images=1"], WHOLE),
    ("mnist/recalibrate.py", ["/nowhere"], "holds no run"),
    ("mnist/recalibrate.py", ["/nowhere", "--num_images=0"], WHOLE),
    ("mnist/launch.py", ["--processes=0"], WHOLE),
    ("tutorial/build.py", ["99"], "no chapter begins with 99"),
    *(
        (f"train_{name}.py", [option], WHOLE)
        for name in ("linen", "nnx", "pmap", "shard_map")
        for option in ("--epochs=0", "--batch-size=0")
    ),
]


@pytest.fixture
def leave(monkeypatch, capsys):
    """Runs a script's `main`, which exits; returns its code and the two outputs."""

    def leave(script, *arguments):
        path = EXAMPLES / script
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [path.name, *arguments])
        specification = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        with pytest.raises(SystemExit) as caught:
            module.main()
        return caught.value.code, *capsys.readouterr()

    return leave


def test_every_script_is_tested():
    assert {script for script, _, _ in MISTAKES} == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_helps(leave, script):
    code, output, errors = leave(script, "--help")
    assert code == 0
    assert not errors
    assert output.startswith(f"usage: {Path(script).name}")
    first = (EXAMPLES / script).read_text().split('"""')[1].splitlines()[0]
    assert first.split()[0] in output  # it says what it does


@pytest.mark.parametrize(("script", "arguments", "says"), MISTAKES)
def test_a_mistake_is_told(leave, script, arguments, says):
    code, output, errors = leave(script, *arguments)
    assert code == 2
    assert not output
    *usage, line = errors.splitlines()
    assert line.startswith(f"{Path(script).name}: error: ")
    assert says in line
    # argparse's own way in the files that are copied, and in those of the MNIST example
    own = script.startswith(("train_", "mnist/", "tutorial/"))
    assert own or not usage


def test_shapes_are_read_as_tables_print_them(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from command_line import sizes

    assert sizes("8x256x768") == sizes("8,256,768") == (8, 256, 768)


def test_ratios_of_pairs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from timing.pairs import ratio

    # the machine became slower, for both
    ours, others = [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 5.0, 8.0, 16.0, 24.0]
    assert ratio(others, ours) == "2.00 (2.00 to 2.50)"
    assert ratio([1.0, 1.9, 4.4, 8.8, 15.0], ours) == "1.00 (0.95 to 1.10, open)"
    assert ratio(ours, ours) == "1"


@pytest.mark.parametrize(
    "norm", matrix(["group", "spectral", "virtual", "batch"], often=["group", "batch"])
)
def test_a_run_without_statistics(get_config, tmp_path, norm):
    config = get_config(norm=norm, num_train=64)
    (tmp_path / "run.json").write_text(json.dumps({"config": config.to_dict()}))
    run = load_run.SavedRun(tmp_path)
    if norm == "batch":
        run.check_statistics()
    else:
        with pytest.raises(ValueError, match=f"config.norm={norm}, which keeps no"):
            run.check_statistics()
