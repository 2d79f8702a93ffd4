"""Each study runs, goes on, and is drawn; mistakes are one line."""

import os
import runpy
import subprocess
import sys

import digits
import nets
import numpy as np
import pytest
import runner
import store
import study
import sweep
from PIL import Image
from support.paths import ROOT
from support.tiers import matrix

TINY = {
    "placement": {"sweep.placement": ("before_activation", "none")},
    "learning_rate": {
        "dense_widths": (4,),
        "sweep.net": ("cnn", "mlp"),
        "sweep.norm": ("batch",),
        "sweep.init_scale": (0.5, 1.0),
    },
    "regularization": {"sweep.norm": ("batch",), "sweep.weight_decay": (0.0, 0.1)},
    "running_average": {
        "eval_every": 1,
        "recalibrated_with": 8,
        "sweep.average": ("cumulative", "precise"),
    },
    "batch_size": {
        "num_examples": 16,
        "ghost_size": 2,
        "reference_size": 4,
        "recalibrated_with": 8,
        "sweep.batch_size": (8,),
        "sweep.norm": ("batch", "virtual"),
    },
    "domain_shift": {"adapted_with": 4, "sweep.norm": ("batch", "instance")},
    "synchronization": {
        "devices": 2,
        "num_examples": 16,
        "sweep.per_device": (2,),
        "sweep.shared_by": ("all", "none"),
    },
    "activations": {"eval_every": 1, "seen": 8, "sweep.norm": ("none", "batch")},
    "sequence": {
        "features": 4,
        "num_blocks": 1,
        "sweep.model": ("LSTM, recurrent_batch", "transformer, batch"),
        "sweep.learning_rate": (0.01,),
    },
    "mean_scale": {"shape": (2, 8), "sweep.ratio": (1.0, 100.0)},
}
# Where a study has them: few digits of few pixels, one layer.
SMALL = {
    "seeds": 2,
    "num_train": 16,
    "num_test": 9,
    "pool": 7,
    "batch_size": 8,
    "num_steps": 2,
    "widths": (4,),
    "repeats": 1,
    "sweep.learning_rate": (0.01, 0.1),
    "sweep.dropout_rate": (0.5,),
}


@pytest.fixture
def configure(get_config, tmp_path):
    """The configuration of a study at a tiny size."""

    def configure(name, **changes):
        config = get_config(f"study_{name}", workdir=str(tmp_path))
        flat = [key for key in config if key != "sweep"]
        flat += [f"sweep.{key}" for key in config.sweep]
        for key, value in (SMALL | TINY.get(name, {}) | changes).items():
            if key in flat:
                with config.ignore_type():
                    config.update_from_flattened_dict({key: value})
        return config

    return configure


def test_every_study_is_tested():
    assert set(TINY) == set(study.names())


@pytest.mark.parametrize("name", TINY)
def test_both_sizes_are_valid(name):
    get_config = runpy.run_path(str(study.config_path(name)))["get_config"]
    for size in ("small", "full"):
        config = get_config(size)
        assert config.size == size
        runner.check(study.load(name), config)
        assert study.load(name).points(config)


@pytest.mark.parametrize("name", TINY)
def test_study_is_in_the_gallery(name):
    gallery = (ROOT / "examples" / "studies" / "README.md").read_text()
    assert f"(figures/{name}.png)" in gallery
    assert f"examples/studies/run.py {name}`" in gallery
    with Image.open(ROOT / "examples" / "studies" / "figures" / f"{name}.png") as image:
        assert image.width == 800


# The others have larger programs; what they share is tested with this one.
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", matrix(TINY, often=["mean_scale"]))
def test_study(configure, tmp_path, name):
    config = configure(name)
    found = study.load(name)
    points = found.points(config)
    assert len(points) == np.prod([len(values) for values in config.sweep.values()])

    figure = runner.run(name, found, config)
    with Image.open(figure) as image:
        assert image.width == 800
    assert figure.stat().st_size < 100_000
    results = store.Store(tmp_path / f"{name}.jsonl", runner.settings(config))
    for point in points:
        for values in results.find(point).result.values():
            assert np.all(np.isfinite(np.array(values, float)))

    # What has finished does not run again.
    def refuse(config, points):
        raise AssertionError(points)

    again = found._replace(run=refuse)
    lines = (tmp_path / f"{name}.jsonl").read_bytes()
    runner.run(name, again, config)
    assert (tmp_path / f"{name}.jsonl").read_bytes() == lines
    # Under another setting, it does.
    with pytest.raises(AssertionError, match=next(iter(points[0]))):
        runner.run(name, again, configure(name, seeds=3))


@pytest.mark.full
@pytest.mark.usefixtures("standard_promotion")
def test_runs_are_functions_of_their_seeds(configure):
    config = configure("regularization", **{"sweep.weight_decay": (0.1,)})
    found = study.load("regularization")
    [first], [second] = (list(found.run(config, found.points(config))) for _ in "ab")
    assert first == second
    losses = first.result["train_loss"]
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_devices_that_share_statistics_do_not_drift(configure):
    config = configure("synchronization", devices=4)
    config.sweep.shared_by = ("all", "pairs", "none")
    found = study.load("synchronization")
    drifts = {
        finding.point["shared_by"]: np.array(finding.result["drift"])
        for finding in found.run(config, found.points(config))
    }
    np.testing.assert_allclose(drifts["all"], 0, atol=1e-6)
    assert np.all(drifts["pairs"] > 1e-4)
    assert np.all(drifts["none"] > drifts["pairs"])


def test_points_at_once_are_those_one_by_one(configure):
    def build(config, shift):
        def run(data, seed, factor):
            return {"y": shift + factor * seed, "each": factor * data.test.labels[:2]}

        return run

    points = [
        {"shift": shift, "factor": factor}
        for factor in (1.0, 2.0, 5.0)
        for shift in (0.0, 10.0)
    ]
    run = sweep.over_seeds(build, static=("shift",))
    config = configure("placement")
    with digits.jax.numpy_dtype_promotion("standard"):
        one = list(run(config, points))
        config.points_at_once = 2
        two = list(run(config, points))
    assert one == two
    assert [f.point for f in one] == sorted(points, key=lambda p: p["shift"])
    for point, result in one:
        expected = [point["shift"] + point["factor"] * seed for seed in range(2)]
        assert result["y"] == expected
        assert np.shape(result["each"]) == (2, 2)


def test_order_visits_each_example_once_an_epoch():
    key = digits.jax.random.key(0)
    order = np.asarray(digits.order(key, 10, 3, 7))
    assert order.shape == (7, 3)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.ravel())) == 9
    assert not np.array_equal(order[:3], order[3:6])
    np.testing.assert_array_equal(digits.order(key, 10, 3, 2), order[:2])


def test_a_line_cut_off_is_run_again(tmp_path):
    path = tmp_path / "results.jsonl"
    point, other = {"x": 1}, {"x": 2}
    store.Store(path, {}).add(study.Finding(point, {"loss": [float("nan"), 1.0]}))
    store.Store(path, {}).add(study.Finding(other, {"loss": 0.5}))
    path.write_bytes(path.read_bytes()[:-5])
    results = store.Store(path, {})
    assert results.find(point).result == {"loss": [None, 1.0]}
    assert results.find(other) is None
    results.add(study.Finding(other, {"loss": 0.25}))
    assert store.Store(path, {}).find(other).result == {"loss": 0.25}
    assert store.Store(path, {"batch_size": 2}).find(other) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_patches_are_those_of_a_convolution(rng, stride):
    import jax

    x = rng.standard_normal((2, 5, 7, 3), np.float32)
    kernel = rng.standard_normal((3, 3, 3, 4), np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    actual = nets.patches(x, stride) @ kernel.reshape((27, 4))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("placement", {"batch_size": 17}, "between 1 and the 16 training"),
        ("placement", {"pool": 3}, "pool must divide 28"),
        ("placement", {"seeds": 0}, "seeds must be at least 1"),
        ("placement", {"norm": "nope"}, "there is no norm 'nope'"),
        ("placement", {"size": "big"}, "size must be small or full"),
        ("placement", {"num_groups": 3}, "num_groups must divide the widths"),
        ("placement", {"sweep.placement": ("up",)}, "can hold before_activation"),
        ("placement", {"sweep.learning_rate": ()}, "must be a tuple of values"),
        ("learning_rate", {"sweep.norm": ("instance",)}, "needs spatial axes"),
        ("running_average", {"eval_every": 3}, "eval_every must divide"),
        ("batch_size", {"sweep.batch_size": (17,)}, "between 1 and the 16"),
        ("batch_size", {"sweep.batch_size": (3,)}, "ghost_size must divide"),
        ("synchronization", {"sweep.per_device": (9,)}, "between 1 and the 16"),
        ("synchronization", {"devices": 3}, "devices must be even"),
        (
            "sequence",
            {"features": 3, "sweep.model": ("transformer, layer",)},
            "num_heads must divide config.features",
        ),
        ("sequence", {"sweep.model": ("LSTM, rms",)}, "can hold LSTM, none"),
    ],
)
def test_what_cannot_run_is_an_error(configure, name, changes, message):
    config = configure(name, **{"sweep.net": ("mlp",)} | changes)
    with pytest.raises(study.StudyError, match=message):
        runner.run(name, study.load(name), config)


@pytest.fixture
def run():
    """Runs run.py; returns its exit code and the two outputs."""

    def run(*arguments):
        result = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "studies" / "run.py"), *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        )
        return result.returncode, result.stdout, result.stderr

    return run


@pytest.mark.slow
def test_list(run):
    code, output, _ = run("--list")
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == study.names()
    assert all(line.endswith("?") for line in lines)


# Each starts a process of its own; what a study refuses is tested above.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["placment"], "there is no study 'placment'; did you mean placement?"),
        ([], "name one study"),
        (["placement", "mean_scale"], "name one study"),
        (["placement", "--config.nope=1"], "no such option in the configuration: nope"),
        (["placement", "--config.seeds=x"], "--config.seeds=x"),
        (["placement", "--seeds=5"], "did you mean --config.seeds?"),
        (["placement", "--config.batch_size=4001"], "the 4,000 training examples"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, arguments, message):
    if arguments:
        arguments = [*arguments, f"--config.workdir={tmp_path}"]
    code, output, errors = run(*arguments)
    assert code == 2
    assert not output
    assert errors.startswith("run.py: error: ")
    assert errors.count("\n") == 1
    assert message in errors
