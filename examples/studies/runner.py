"""Runs the remaining points of a study, and draws its figure."""

import tempfile
import time
from pathlib import Path
from typing import Any

import ml_collections
import plots
from store import Store
from study import Study, StudyError
from tqdm import tqdm

# These options do not affect the findings.
_NOT_SETTINGS = ("sweep", "workdir", "data_dir", "points_at_once")


def run(name: str, study: Study, config: ml_collections.ConfigDict) -> Path:
    """Runs the points of a study that have not run yet, and draws all points.

    Args:
      name: name of the study.
      study: the study.
      config: its configuration.

    Returns:
      The path of the figure; the findings are in a JSON lines file next to it.

    Raises:
      StudyError: the configuration is not valid.
      DataUnavailableError: the full data set is not available.
    """
    check(study, config)
    workdir = Path(config.workdir or Path(tempfile.gettempdir()) / "jaxnorm-studies")
    workdir.mkdir(parents=True, exist_ok=True)
    store = Store(workdir / f"{name}.jsonl", settings(config))
    points = study.points(config)
    missing = [point for point in points if store.find(point) is None]
    begin = time.perf_counter(), time.process_time()
    done = len(points) - len(missing)
    with tqdm(
        total=len(points), initial=done, desc=name, leave=False, disable=None
    ) as bar:
        if missing:
            for finding in study.run(config, missing):
                store.add(finding)
                bar.update()
    seconds = time.perf_counter() - begin[0]
    processor_seconds = time.process_time() - begin[1]
    findings = [store.find(point) for point in points]
    figure = workdir / f"{name}.png"
    plots.save(study.draw(config, findings), figure)
    print(
        f"{len(missing)} of {len(points)} points run in {seconds:.0f} s "
        f"({processor_seconds:.0f} s of processor time): {figure}"
    )
    return figure


def settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings on which findings depend, as JSON values."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in _NOT_SETTINGS
    }


def check(study: Study, config: ml_collections.ConfigDict) -> None:
    """Raises `StudyError` if the configuration of a study is not valid."""
    if config.size not in ("small", "full"):
        raise StudyError(f"config.size must be small or full; it is {config.size!r}")
    whole = ("seeds", "points_at_once", "batch_size", "num_steps", "eval_every")
    for key in whole:
        if key in config and config[key] < 1:
            raise StudyError(f"config.{key} must be at least 1; it is {config[key]}")
    if "eval_every" in config and config.num_steps % config.eval_every:
        raise StudyError(
            f"config.eval_every must divide config.num_steps, {config.num_steps}; it "
            f"is {config.eval_every}"
        )
    for key, values in config.sweep.items():
        if not isinstance(values, tuple) or not values:
            raise StudyError(
                f"config.sweep.{key} must be a tuple of values, such as (1, 2); it is "
                f"{values!r}"
            )
        for value in values:
            if value not in study.choices.get(key, values):
                raise StudyError(
                    f"config.sweep.{key} can hold "
                    f"{', '.join(map(str, study.choices[key]))}; it has {value!r}"
                )
