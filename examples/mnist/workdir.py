"""Claims a working directory for one run and one configuration."""

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
# What a run writes into its working directory.
FOLDERS = ("checkpoints", "damaged", "variables")
FILES = (DESCRIPTION, "metrics.jsonl", "curves.png")
# Options that may differ in a continued run: its length, what it keeps, where it runs.
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
    """Claims `workdir` for this run or its continuation.

    Args:
      workdir: working directory; created if necessary.
      config: configuration of the run.
      state: a tree of arrays, as in the checkpoints of the run.

    Returns:
      A lock, held until it is released or the process ends in any way.

    Raises:
      ConfigError: the directory cannot be created or written to, another process uses
        it, or it holds other files, something else by the name of one of its files, or
        a run of another model or configuration.
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
            f"--workdir={workdir} cannot be created or written to: {error.strerror}; "
            "name another directory"
        ) from None
    _check_contents(workdir)
    path = workdir / DESCRIPTION
    description = _describe(config, state)
    if not path.exists():
        if (workdir / "metrics.jsonl").exists():
            raise ConfigError(
                f"--workdir={workdir} holds results without the {DESCRIPTION} that "
                "describes them; name another directory"
            )
    else:
        differences = _differences(_read(path, workdir), description)
        if differences:
            raise ConfigError(
                f"--workdir={workdir} holds another run: {'; '.join(differences)}; "
                "name another directory, or use the configuration of that run"
            )
    try:
        write_atomically(path, json.dumps(description, indent=2))
    except OSError as error:
        raise ConfigError(
            f"--workdir={workdir} cannot be written to: {error}; name another directory"
        ) from None
    return lock


def _check_contents(workdir: Path) -> None:
    """Checks that nothing else has the name of a folder or a file of a run."""
    for names, kind, fits in (
        (FOLDERS, "directory", Path.is_dir),
        (FILES, "file", Path.is_file),
    ):
        for name in names:
            path = workdir / name
            if (path.exists() or path.is_symlink()) and not fits(path):
                raise ConfigError(
                    f"--workdir={workdir} holds a {name} that is not a {kind}; remove "
                    "it, or name another directory"
                )


def _read(path: Path, workdir: Path) -> dict[str, Any]:
    """Returns the description of the run that the directory holds."""
    try:
        before = json.loads(path.read_bytes())
        if all(isinstance(before[part], dict) for part in ("config", "state")):
            return before
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"--workdir={workdir} holds a {path.name} that does not describe a run; name "
        "another directory"
    )


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
    # A different configuration explains a different state.
    of_config = [text for text in differences if text.startswith("its config")]
    return of_config or differences[:3]
