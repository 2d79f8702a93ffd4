"""What a diagnosis finds, in numbers, in words and in pictures."""

import functools
import io
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from matplotlib.figure import Figure
from support.drawing import place
from support.refusals import refused
from support.small_net import NET, collect, make_images, make_variables

from jaxnorm.tools import (
    Diagnosis,
    diagnose,
    diagnosis_figure,
    diagnosis_table,
    recalibrate,
)

pytestmark = pytest.mark.usefixtures("annotations_checked")

images = pytest.fixture(make_images)
variables = pytest.fixture(make_variables)


@functools.partial(jax.jit, static_argnums=2)
def apply_jitted(variables, images, train):
    y, updates = NET.apply(variables, images, train, mutable=["batch_moments"])
    return y, updates["batch_moments"]


@pytest.fixture
def apply():
    return apply_jitted


@functools.cache
def fitted_statistics():
    return recalibrate(collect(False), make_variables(), [make_images()], passes=3)


@pytest.fixture
def fitted(variables):
    return {**variables, "batch_stats": fitted_statistics()}


def with_first(variables, **statistics):
    stats = variables["batch_stats"]
    first = {**stats["BatchNorm_0"], **statistics}
    return {**variables, "batch_stats": {**stats, "BatchNorm_0": first}}


def words(apply, variables, images):
    return "\n".join(diagnose(apply, variables, images).explain())


def test_numbers(apply, variables, images):
    mean, var = np.array([1.0, -1.0]), np.array([4.0, 9.0])
    diagnosis = diagnose(
        apply,
        with_first(variables, mean=place(mean), var=place(var)),
        images,
    )
    assert list(diagnosis.layers) == ["BatchNorm_0", "BatchNorm_1", "BatchNorm_2"]
    layer = diagnosis.layers["BatchNorm_0"]
    x = np.asarray(images, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(
        layer.mean_distance, np.abs(x.mean(0) - mean) / np.sqrt(var), rtol=1e-4
    )
    np.testing.assert_allclose(layer.std_ratio, x.std(0) / np.sqrt(var), rtol=1e-4)
    np.testing.assert_allclose(layer.condition, x.mean(0) / x.std(0), rtol=1e-4)
    assert not layer.untouched.any() and not layer.dead.any() and layer.finite.all()
    assert diagnosis.layers["BatchNorm_1"].untouched.all()


def test_nothing_unusual(apply, fitted, images):
    diagnosis = diagnose(apply, fitted, images)
    assert diagnosis.output_gap < 1e-4
    assert len(diagnosis.explain()) == 1
    assert diagnosis.explain()[0].startswith("Training and inference agree")


def half_constant(images):
    return np.where([True, False], images, 0.5)


@pytest.mark.parametrize(
    ("damage", "data", "message"),
    [
        ({"mean": 30.0}, None, r"more than one standard deviation away.*BatchNorm_0"),
        (
            {"var": 1e4},
            None,
            r"differs from the running one in BatchNorm_0 \(0\.0\d+ times\)",
        ),
        ({"mean": np.nan}, None, "not finite in BatchNorm_0"),
        ({}, half_constant, r"constant .*BatchNorm_0 \(1 of 2\)"),
        ({}, lambda x: x * 1e-1 + 1e4, "1,000 standard deviations in BatchNorm_0"),
    ],
)
def test_in_words(apply, fitted, images, damage, data, message):
    damaged = with_first(
        fitted, **{name: place(np.full(2, value)) for name, value in damage.items()}
    )
    if data is not None:
        images = place(data(np.asarray(images)))
    found = words(apply, damaged, images)
    assert re.search(message, found), found


def test_never_updated(apply, variables, images):
    found = words(apply, variables, images)
    assert "never updated: mean 0 and variance 1 in BatchNorm_0, BatchNorm_1" in found
    assert "Outputs in training and in inference differ by" in found


def test_a_gap_that_statistics_do_not_explain(apply, fitted, images):
    def noisy(variables, images, train):
        y, moments = apply(variables, images, train)
        return y + 10 * train, moments

    assert "dropout" in words(noisy, fitted, images)


def test_a_layer_that_keeps_one_statistic(apply, fitted, images):
    stats = dict(fitted["batch_stats"])
    layer = {"mean": stats["BatchNorm_0"]["mean"]}

    def without(variables, images, train):
        return apply(fitted, images, train)

    diagnosis = diagnose(without, {"batch_stats": {"BatchNorm_0": layer}}, images)
    assert np.isnan(diagnosis.layers["BatchNorm_0"].std_ratio).all()
    assert len(diagnosis.explain()) == 1


def test_table_and_figure(apply, variables, fitted, images, tmp_path):
    history = [(0, diagnose(apply, variables, images))]
    history.append((100, diagnose(apply, fitted, images)))
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(diagnosis_table(history[0][1]))
    text = console.export_text()
    for name in history[0][1].layers:
        assert name in text
    figure = diagnosis_figure(history)
    assert isinstance(figure, Figure)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 6
    figure.savefig(tmp_path / "figure.png")
    # a color means the same in all panels of a column, and the title is the largest
    scales = [axes.images[0].get_clim() for axes in panels]
    assert len(set(scales)) == 2
    size = figure.get_suptitle() and figure._suptitle.get_fontsize()
    assert size > max(axes.title.get_fontsize() for axes in panels)


def test_a_narrow_table_cuts_nothing(apply, variables, images):
    found = diagnose(apply, variables, images)
    path = "/".join(f"ResidualBlock_{i}" for i in range(4))
    layers = {f"{path}/{name}": layer for name, layer in found.layers.items()}
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    console.print(diagnosis_table(Diagnosis(layers, 1e-3)))
    text = console.export_text()
    assert "…" not in text and "nan" not in text
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if
                    "│" in line)  # fmt: skip
    assert first == "".join(layers)
    assert "largest" in text and "smallest" in text


@pytest.mark.parametrize(
    ("show", "argument", "module"),
    [
        (diagnosis_table, Diagnosis({}, 0.0), "rich.table"),
        (diagnosis_figure, [(0, Diagnosis({}, 0.0))], "matplotlib.figure"),
    ],
)
def test_a_missing_package(show, argument, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # so that its import fails
    package = module.split(".")[0]
    message = rf'{show.__name__} needs {package}.*pip install "jaxnorm\[show\]"'
    with pytest.raises(ImportError, match=message):
        show(argument)


def test_diagnoses_of_two_models_are_an_error(apply, variables, images):
    one = diagnose(apply, variables, images)
    other = Diagnosis({}, 0.0)
    for history in ([(0, one), (5, other)], [(0, other), (5, one)]):
        with refused("history", "BatchNorm_0", "5"):
            diagnosis_figure(history)


def test_bad_input(apply, variables, images):
    with pytest.raises(ValueError, match="running statistics"):
        diagnose(apply, {"params": {}}, images)
    with pytest.raises(ValueError, match=r"BatchNorm_0 collected none.*Flax's layers"):
        diagnose(lambda *_: (jnp.zeros(2), {}), variables, images)
    with pytest.raises(TypeError, match="must return a pair"):
        diagnose(lambda *_: jnp.zeros(2), variables, images)
    with refused("output", "array", "dict"):
        diagnose(lambda *_: ({}, apply(variables, images, True)[1]), variables, images)
    with pytest.raises(ValueError, match="at least one diagnosis"):
        diagnosis_figure([])


@pytest.mark.parametrize(
    ("show", "argument", "says"),
    [
        (diagnosis_table, {}, "got dict"),
        (diagnosis_figure, Diagnosis({}, 0.0), "[(0, diagnosis)]"),
        (diagnosis_figure, [Diagnosis({}, 0.0)] * 2, "history"),
        (diagnosis_figure, [(0, {})], "got dict"),
        (diagnosis_figure, [1], "pairs"),
        (diagnosis_figure, iter([(0, Diagnosis({}, 0.0))]), "list(history)"),
        (diagnosis_figure, {0: Diagnosis({}, 0.0)}, "list(history.items())"),
        (diagnosis_figure, None, "NoneType"),
    ],
)
def test_a_wrong_type_of_diagnosis_is_an_error(show, argument, says, as_users_run_it):
    with refused(says):
        show(argument)
