# The one thing to know: `make demo`, `make test`, `make check`, `make docs`. `make` alone lists them all.

VENV ?= .venv
PYTHON ?= python3
# Extra words for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the small CPU build.
PIP_ARGS ?=
# Extra words for the command that a target runs, e.g. ARGS="--help" or ARGS="tests/data -x".
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format docs html snippets wheel api bench ci clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

demo: $(VENV)/.installed-demo  ## install the library, then clone a CartPole expert and write a report
	$(BIN)/understudy demo $(ARGS)

test: $(VENV)/.installed-dev  ## install the test tools and run the tests, with coverage of src
	$(PYTEST) -n 2 --cov --cov-report=term --cov-fail-under=92 -m "not slow" $(ARGS)

slow: $(VENV)/.installed-dev  ## learning tests and full-size fault tests
	$(PYTEST) -m slow $(ARGS)

check: $(VENV)/.installed-dev  ## format, lint, types, import layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.installed-dev  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: html snippets  ## build the pages (warnings are errors) and run every snippet in them

html: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W -n --keep-going -b html docs docs/_build/html

snippets: $(VENV)/.installed-dev
	$(PYTEST) tests/docs $(ARGS)

wheel: $(VENV)/.installed-dev  ## build the wheel and try it in a fresh venv without extras
	PYTHON=$(BIN)/python PIP_ARGS="$(PIP_ARGS)" tests/wheel_smoke.sh

api: $(VENV)/.installed-dev  ## rewrite docs/api.txt after a wanted change of the public names
	$(BIN)/python tests/test_public_api.py

bench: $(VENV)/.installed-demo  ## measure against imitation 1.0.1 in an environment of its own
	$(BIN)/python benchmarks/run.py $(ARGS)

ci:  ## everything that must hold before a merge
	.ci/run

clean:  ## remove what the other targets made, the environments too
	rm -rf $(VENV) .venv-* dist build docs/_build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "expected Python 3.11 or newer; got $$($(PYTHON) --version 2>&1 | head -n 1)."; \
	  echo "Do this: name another interpreter, e.g. make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "expected Python's venv module; it is not installed."; \
	  echo "Do this: sudo apt-get install python3-venv   (Debian, Ubuntu)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than the files that decide what is installed, so a second run installs nothing.
$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[plots]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev,docs]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-dev
