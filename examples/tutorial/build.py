"""Builds the notebooks from the scripts in this directory, with their outputs.

python examples/tutorial/build.py           # all chapters
python examples/tutorial/build.py 02 05     # chapters whose names begin like this
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent


def chapters(prefixes: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """Yields the scripts whose names begin with one of `prefixes`, in order."""
    for path in sorted(HERE.glob("[0-9]*.py")):
        if path.name.startswith(prefixes):
            yield path


def read(path: Path) -> nbformat.NotebookNode:
    """Returns a script as a notebook without outputs, reproducibly."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        }
    )
    for index, cell in enumerate(notebook.cells):
        cell.id = str(index)  # random by default
        cell.metadata = {}
    return notebook


def main() -> None:
    """Runs chapters, and writes their notebooks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "chapters", nargs="*", help="beginnings of names; default: all chapters"
    )
    prefixes = tuple(parser.parse_args().chapters)
    for prefix in prefixes:
        if not any(chapters((prefix,))):
            parser.error(f"no chapter begins with {prefix}")
    from nbclient import NotebookClient

    # Makes outputs look the same on every machine.
    os.environ["JAX_PLATFORMS"] = "cpu"
    for path in chapters(prefixes or ("",)):
        start, notebook = time.monotonic(), read(path)
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            resources={"metadata": {"path": str(HERE)}},
        ).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day
        target = path.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        kilobytes = target.stat().st_size / 1000
        print(f"{target.name}: {time.monotonic() - start:.0f} s, {kilobytes:.0f} kB")


if __name__ == "__main__":
    main()
