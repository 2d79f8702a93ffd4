"""The tests can fail: each fault of a table is noticed by the tests named beside it.

Every mutant is a copy of the package in which one text is replaced. The tests that it
names run on that copy, in a process of their own, without the run-time checks of
annotations, and have to fail by an assertion.
"""

import pathlib
import re
import shutil

import pytest
import verdict
from child import run_pytest
from mutants import TABLE

ROOT = pathlib.Path(__file__).parents[2]
TESTS = ROOT / "tests"
DEFAULT_TIER = re.search(
    "addopts = .*-m '(.*?)'", (ROOT / "pyproject.toml").read_text()
).group(1)


def copy_package(folder):
    bytecode = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(ROOT / "jaxnorm", folder / "jaxnorm", ignore=bytecode)


def run(package, file, tests, only=""):
    """Runs tests of the default tier on a copy of the package."""
    environment = {"MUTATED_PACKAGE": str(package), "MUTATED_FILE": file}
    arguments = ["-c", str(ROOT / "pyproject.toml"), "-o", "addopts=--strict-markers"]
    arguments += ["-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    arguments += ["--assert=plain"]  # nobody reads what an assertion compared
    arguments += ["-p", verdict.__name__, "-m", DEFAULT_TIER, "-k", only]
    arguments += [str(TESTS / test) for test in tests]
    output = package.parent / "output.txt"
    status = run_pytest(arguments, environment, package, output)
    return status, output.read_text()


def test_the_table_follows_the_code(tmp_path):
    """Each text is found once, and each test exists."""
    names = [mutant.name for mutant in TABLE]
    assert len(set(names)) == len(names) >= 75
    for mutant in TABLE:
        assert mutant.before != mutant.after, mutant.name
        path = tmp_path / mutant.file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "jaxnorm" / mutant.file, path)
        mutant.apply(tmp_path)
        for test in mutant.tests.split():
            file, _, function = test.partition("::")
            source = (TESTS / file).read_text()
            assert f"def {function or 'test_'}" in source, (mutant.name, test)


@pytest.mark.slow
@pytest.mark.parametrize("narrowed", [False, True])
def test_without_a_fault_the_tests_pass(narrowed, tmp_path):
    rows = [mutant for mutant in TABLE if bool(mutant.only) == narrowed]
    tests = dict.fromkeys(test for row in rows for test in row.tests.split())
    only = " or ".join(dict.fromkeys(f"({row.only})" for row in rows if narrowed))
    status, output = run(copy_package(tmp_path), "__init__.py", tests, only)
    assert status == pytest.ExitCode.OK, output


@pytest.mark.slow
@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.name)
def test_a_fault_is_noticed(mutant, tmp_path):
    package = copy_package(tmp_path)
    mutant.apply(package)
    status, output = run(package, mutant.file, mutant.tests.split(), mutant.only)
    assert status != pytest.ExitCode.OK, f"it survives {mutant.tests}"
    assert status == pytest.ExitCode.TESTS_FAILED, output
