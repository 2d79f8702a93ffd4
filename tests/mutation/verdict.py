"""A pytest plugin for a run whose package is a mutated copy.

A mutant is killed by an assertion about what the package computes. Whatever else goes
wrong (the copy is not what was imported, an import or a fixture fails, an exception
leaves a test) ends the run with an exit status of its own.
"""

import os
import pathlib
import sys

import pytest

NO_VERDICT = 9
ASSERTIONS = (AssertionError, pytest.fail.Exception)  # the second: nothing was raised


def pytest_collection_finish(session):
    package = pathlib.Path(os.environ["MUTATED_PACKAGE"])
    modules = [m for n, m in sys.modules.items() if n.split(".")[0] == package.name]
    files = {pathlib.Path(module.__file__) for module in modules}
    if not all(file.is_relative_to(package) for file in files):
        stop(f"not all modules come from {package}: {sorted(map(str, files))}")
    if package / os.environ["MUTATED_FILE"] not in files:
        stop(f"no test imports {os.environ['MUTATED_FILE']}")


def pytest_exception_interact(node, call, report):
    if report.when != "call" or not call.excinfo.errisinstance(ASSERTIONS):
        stop(f"{node.nodeid} ends with {call.excinfo.exconly()}")


def stop(reason):
    pytest.exit(reason, returncode=NO_VERDICT)
