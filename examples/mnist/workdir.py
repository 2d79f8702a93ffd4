"""A working directory that belongs to one run, and to one configuration."""

import json
from pathlib import Path
from typing import Any

import filelock
import jax
import ml_collections
import numpy as np
from checkpoint import write_atomically
from settings import ConfigError

DESCRIPTION = "run.json"
# What may differ when a run goes on: how long it is, what it keeps, and where it runs.
MAY_DIFFER = (
    "num_epochs",
    "checkpoint_every",
    "keep_checkpoints",
    "skip_nonfinite",
    "max_bad_batches",
    "data_dir",
    "parallelism",
)


def claim(
    workdir: Path, config: ml_collections.ConfigDict, state: Any
) -> filelock.FileLock:
    """Makes `workdir` the one of this run, or of its continuation.

    Args:
      workdir: made if need be.
      config: of the run.
      state: a tree of arrays, as the run's checkpoints hold it.

    Returns:
      A lock, held until it is released or the process ends, however it ends.

    Raises:
      ConfigError: it cannot be made or written to; another process uses it; or it holds
        something else, or a run of another model or configuration.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir} is not a directory")
    lock = filelock.FileLock(workdir / ".lock", blocking=False)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(
            f"--workdir={workdir} is in use by another run; wait for its end, or name "
            "another directory"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be made, or written to: {error.strerror}; "
            "name another directory"
        ) from None
    path = workdir / DESCRIPTION
    description = _describe(config, state)
    if not path.exists():
        if (workdir / "metrics.jsonl").exists():
            raise ConfigError(
                f"--workdir={workdir} holds results and no {DESCRIPTION} that tells of "
                "what; name another directory"
            )
    else:
        differences = _differences(json.loads(path.read_text()), description)
        if differences:
            raise ConfigError(
                f"--workdir={workdir} holds another run: {'; '.join(differences)}; "
                "name another directory, or run as it was run"
            )
    write_atomically(path, json.dumps(description, indent=2))
    return lock


def _describe(config: ml_collections.ConfigDict, state: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        "config": {name: config[name] for name in sorted(config)},
        "state": {
            jax.tree_util.keystr(path, simple=True, separator="/"): (
                f"{np.asarray(x).dtype}{list(np.shape(x))}"
            )
            for path, x in leaves
        },
    }


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    differences = [
        f"its {part} {name} was {before[part].get(name)}, and is {now[part].get(name)}"
        for part in ("config", "state")
        for name in sorted(before[part].keys() | now[part].keys())
        if before[part].get(name) != now[part].get(name) and name not in MAY_DIFFER
    ]
    # A configuration that differs explains a state that does.
    of_config = [text for text in differences if text.startswith("its config")]
    return of_config or differences[:3]
