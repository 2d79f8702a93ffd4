"""Runs pytest in a process that begins with what the package and its tests import.

Such a process is forked from one that has imported these and nothing else, so that they
are imported once, and not for each mutant.
"""

import multiprocessing
import os
import sys

import pytest

_CONTEXT = multiprocessing.get_context("forkserver")
# None of them touches a device, before which JAX may be forked.
_CONTEXT.set_forkserver_preload(
    ["chex", "flax.linen", "flax.nnx", "hypothesis", "optax", "pytest"]
)


def run_pytest(arguments, environment, package, output):
    """Returns the exit status of pytest, which writes to the file `output`.

    Args:
      arguments: Of pytest.
      environment: Variables that the process has besides those of this one.
      package: What is imported in place of the installed package of this name.
      output: Where the process writes what pytest prints.
    """
    process = _CONTEXT.Process(
        target=_run, args=(arguments, environment, package.parent, output)
    )
    process.start()
    process.join(timeout=1800)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"pytest {arguments} has not ended: {output.read_text()}")
    return process.exitcode


def _run(arguments, environment, folder, output):
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ |= environment
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    sys.exit(pytest.main(arguments))
