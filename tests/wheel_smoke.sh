#!/usr/bin/env bash
# Build the wheel, install it with core dependencies only in a fresh environment, and use it from another directory.
# PYTHON: an interpreter that has `build` (default .venv/bin/python). PIP_ARGS: extra words for pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== wheel: build"
"$python" -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
wheel=$(echo "$work"/dist/understudy-*.whl)
ls -l "$wheel"
# Nothing but the package and its licence; the marker of types and the experts must be inside.
"$python" - "$wheel" <<'PY'
import sys, zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
stray = [n for n in names if not n.startswith(("understudy/", "understudy-"))]
assert not stray, stray
assert "understudy/py.typed" in names
assert any(n.startswith("understudy/policies/bundled/") and n.endswith(".safetensors") for n in names), "no bundled expert"
print(f"wheel: {len(names)} files")
PY

echo "== wheel: install with core dependencies only"
"$python" -m venv "$work/venv"
# shellcheck disable=SC2086
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} -c constraints.txt "$wheel"

echo "== wheel: import every public module, then a small clone, from another directory"
mkdir "$work/elsewhere"
cd "$work/elsewhere"
env -u PYTHONPATH OMP_NUM_THREADS=1 "$work/venv/bin/python" -W error::ImportWarning "$root/tests/_wheel_smoke.py"
env -u PYTHONPATH OMP_NUM_THREADS=1 "$work/venv/bin/understudy" demo --n-demonstrations 4 --n-epochs 1 --n-eval-episodes 8 --no-progress-bar
echo "== wheel: fine"
