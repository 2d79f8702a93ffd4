"""Variables on disk, with Orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def save(path: Path, variables: Any) -> None:
    """Writes `variables`, a tree of arrays, into the new directory `path`."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), variables)


def load(path: Path, like: Any) -> Any:
    """Reads what `save` wrote.

    Args:
      path: the directory.
      like: a tree of arrays with the shapes, dtypes and shardings to read into, such as
        `model.init(...)`; it need not be the one that was saved.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), like)
