# One command per wish; `make help` lists them. Everything lives in .venv of this folder and is safe to repeat.
#
#   PYTHON=/path/to/python3.12    which interpreter .venv is made from (default: the first suitable one on PATH)
#   PYTEST_ARGS="-k ccc -x"       handed to pytest by `test` and `test-slow`

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The steps of a target are ordered by what they need; `-j` must not interleave their output.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.setup-complete
# pip-audit, build and twine, apart from what they look at.
TOOLS := .venv-tools
TOOLS_STAMP := $(TOOLS)/.setup-complete
CODE := hocp_mm configs tools benchmarks tests requirements setup.py
PYTEST_ARGS ?=
# A file's tests share what they set up, so they stay together; a process may take 3 GB.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# Without what compiles, starts processes or exports networks.
FAST := tests/functional tests/layers tests/structures tests/test_rooms.py --ignore=tests/functional/native \
	--ignore=tests/layers/test_interoperability.py --ignore=tests/layers/test_synced_norm.py

# 3.11 to 3.13 first: requirements/lock.txt fits those.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.10 python; do \
	if "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then echo "$$p"; exit; fi; done; \
	for p in python3 python3.10 python; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then echo "$$p"; exit; fi; done; echo python3)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip must act on .venv alone, whatever the caller's shell has set.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_USER

.PHONY: help setup test test-fast test-slow lint types contracts unit demo demo-afew-va demo-affectnet bench audit wheel \
	floors pythons lock format clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (about 3 minutes and 6 GB the first time)

# The stamp is written last: an install that was interrupted is taken up again by the next call. pip leaves nothing
# half-installed that it would mistake for whole, since a wheel's metadata is unpacked after its files.
$(STAMP): requirements/lock.txt setup.py Makefile
	@rm -f $@
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "make setup: Python >= 3.10 is needed, got '$(PYTHON)' ($$("$(PYTHON)" --version 2>&1)). Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make setup: '$(PYTHON)' cannot make virtual environments (no ensurepip). On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "==> $(VENV) from $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@if $(PY) -c 'import platform, sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and sys.platform == "linux" and platform.machine() == "x86_64"))'; then \
	  echo "==> exact files from requirements/lock.txt"; \
	  $(PY) -m pip install --require-hashes --no-deps -r requirements/lock.txt; \
	else \
	  echo "==> requirements/lock.txt is for Linux x86-64 with CPython 3.11 to 3.13, this is $$($(PY) -c 'import platform; print(platform.python_version(), platform.system(), platform.machine())'): newest versions within the ranges of setup.py"; \
	  $(PY) -m pip install 'setuptools>=70.1,<82' && $(PY) -m pip install --no-build-isolation --editable '.[all,dev]'; \
	fi
	@echo "==> hocp_mm itself (editable)"
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@echo "==> first import"
	@$(PY) -m hocp_mm.compat
	@touch $@

test: lint types contracts unit ## lint, types, import contracts, tests and doctests: what CI runs

test-fast: lint contracts ## lint, import contracts and the laws of mathematics and rooms: a minute, while you work
	$(PY) -m pytest -q $(PARALLEL) $(FAST) $(PYTEST_ARGS)

lint: setup ## ruff: rules and format
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)

types: setup ## pyright
	$(PY) -m pyright

contracts: setup ## import-linter: arrows point down only
	$(BIN)/lint-imports

unit: setup ## pytest with doctests, without the slow ones
	$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-slow: setup ## the tests that take minutes
	$(PY) -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

demo: setup ## the whole recipe on synthetic videos: at most 10 minutes, results in demo_output/
	$(PY) tools/run_demo.py

demo-afew-va: setup ## five folds by actor on synthetic AFEW-VA: 7 to 15 minutes, results in demo_output/afew_va/
	$(PY) tools/run_demo.py --set afew_va

demo-affectnet: setup ## stage 1 with expressions on synthetic AffectNet: a few minutes, results in demo_output/affectnet/
	$(PY) tools/run_demo.py --set affectnet

bench: setup ## every benchmark (about 45 minutes on a quiet machine), results in benchmarks/results/
	$(PY) -m benchmarks.run

$(TOOLS_STAMP): requirements/tools.txt
	@rm -f $@
	@"$(PYTHON)" -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements/tools.txt
	@touch $@

audit: setup $(TOOLS_STAMP) ## docs/licences.md, then known vulnerabilities of the lock files; exit code 3 of audit.py: not audited
	$(PY) requirements/licences.py
	$(TOOLS)/bin/python requirements/audit.py

wheel: setup $(TOOLS_STAMP) ## wheel and sdist in dist/, checked, and tested from a wheel that is installed
	bash tools/check_wheel.sh

floors: ## the suite with the lowest versions of setup.py, in an environment that is deleted afterwards
	bash tools/check_floors.sh $(PYTEST_ARGS)

pythons: ## install, import and core tests with every Python from 3.10 to 3.13 that is here
	bash tools/check_pythons.sh

lock: setup ## hashes for the pins of requirements/lock.txt, after a pin was changed by hand
	$(PY) requirements/make_lock.py

format: setup ## let ruff repair and format the code
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

clean: ## remove caches, build folders and demo output
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache demo_output
	find hocp_mm configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## like clean, and remove .venv
	rm -rf $(VENV) $(TOOLS)
