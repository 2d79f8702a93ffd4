#!/usr/bin/env bash
# Checks what a release uploads as its users get it: the tests of the source distribution
# against the wheel, installed in an empty environment, outside of the repository.
#
#   .github/check_wheel.sh                           # the default tier of the library
#   .github/check_wheel.sh -n 0 tests/test_moments.py
#   DIST=dist PYTHON=python3.13 .github/check_wheel.sh
#
# Arguments go to pytest, in the place of those that select the default tier. DIST is a
# directory with one wheel and one source distribution; without it, both are built.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
unset PYTHONPATH

step() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2 && exit 1; }
environment() {
  "${PYTHON:-python3}" -m venv "$1" && "$1/bin/pip" install --quiet "${@:2}"
}

step "Build, unless it was"
environment "$scratch/tools" build twine
if [ -z "${DIST:-}" ]; then
  DIST=$scratch/dist
  "$scratch/tools/bin/python" -m build --outdir "$DIST" "$repository"
fi
DIST=$(cd "$DIST" && pwd)
wheels=("$DIST"/jaxnorm-*.whl)
sdists=("$DIST"/jaxnorm-*.tar.gz)
[ "${#wheels[@]}" = 1 ] && [ "${#sdists[@]}" = 1 ] ||
  fail "$DIST must hold one wheel and one source distribution: ${wheels[*]} ${sdists[*]}"
"$scratch/tools/bin/twine" check --strict "${wheels[0]}" "${sdists[0]}"

step "The wheel holds the package, and nothing else"
mkdir "$scratch/sdist"
tar -xzf "${sdists[0]}" -C "$scratch/sdist" --strip-components=1
"$scratch/tools/bin/python" -m zipfile -e "${wheels[0]}" "$scratch/wheel"
diff -r "$scratch/sdist/jaxnorm" "$scratch/wheel/jaxnorm"
[ -f "$scratch/wheel/jaxnorm/py.typed" ] || fail "py.typed is not in the wheel"
others=$(find "$scratch/wheel" -mindepth 1 -maxdepth 1 \
  ! -name jaxnorm ! -name 'jaxnorm-*.dist-info')
[ -z "$others" ] || fail "also in the wheel: $others"

step "It imports with the packages that it declares"
environment "$scratch/venv" "${wheels[0]}"
python=$scratch/venv/bin/python
cd "$scratch/sdist"
find jaxnorm -name '*.py' -delete  # else the tests would import it
"$python" - <<'CHECK'
import pathlib
import sys

import jaxnorm.linen
import jaxnorm.nnx
import jaxnorm.tools

print(jaxnorm.__file__)
if not pathlib.Path(jaxnorm.__file__).is_relative_to(sys.prefix):
    sys.exit("this is not the installed wheel")
CHECK

step "Its tests pass"
"$python" -m pip install --quiet "${wheels[0]}[test-library]"
"$python" -m pip check
if [ "$#" = 0 ]; then
  set -- tests --ignore=tests/examples --pyargs jaxnorm
fi
"$python" -m pytest -p no:cacheprovider "$@"
