"""Runs what is left of a study, and draws it."""

import tempfile
import time
from pathlib import Path
from typing import Any

import ml_collections
import plots
from store import Store
from study import Study, StudyError
from tqdm import tqdm

# Without effect on what is found at a point.
_NOT_SETTINGS = ("sweep", "workdir", "data_dir", "points_at_once")


def run(name: str, study: Study, config: ml_collections.ConfigDict) -> Path:
    """Runs the points of a study that have not run, and draws all of them.

    Args:
      name: of the study.
      study: what to do.
      config: its configuration.

    Returns:
      Where the figure is; the findings are in a JSON lines file beside it.

    Raises:
      StudyError: the configuration cannot be run.
      DataUnavailableError: the full data set cannot be had.
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
    """Returns what findings depend on beside the point, as JSON has it."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key not in _NOT_SETTINGS
    }


def check(study: Study, config: ml_collections.ConfigDict) -> None:
    """Raises `StudyError` for what a study cannot run with."""
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
                f"config.sweep.{key} must be some values, such as (1, 2); it is "
                f"{values!r}"
            )
        for value in values:
            if value not in study.choices.get(key, values):
                raise StudyError(
                    f"config.sweep.{key} can hold "
                    f"{', '.join(map(str, study.choices[key]))}; it has {value!r}"
                )
