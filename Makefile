# Everything here sets itself up: it needs python3 (3.11 or newer), git and make, and keeps to .venv/ and runs/.
#
#   make demo                      the Hudson Bay example, from simulator to report
#   make test                      the quick tests; make slow, the others
#   make docs                      the site of the documentation
#   make check                     all that CI checks
#
# PYTHON=python3.12 picks another interpreter, CONSTRAINTS= takes the newest versions instead of the tested ones,
# and pip reads its own settings (PIP_...) as ever.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

# One thread for each process: networks of this size gain nothing from more, and lose much beside a busy neighbour.
OMP_NUM_THREADS ?= 1
PIP_DISABLE_PIP_VERSION_CHECK ?= 1
PYRIGHT_PYTHON_IGNORE_WARNINGS ?= 1
NO_MKDOCS_2_WARNING ?= 1
export OMP_NUM_THREADS PIP_DISABLE_PIP_VERSION_CHECK PYRIGHT_PYTHON_IGNORE_WARNINGS NO_MKDOCS_2_WARNING

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test pages docs shapes slow long check lint format format-check types imports spelling constraints clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready-run ## infer eight parameters of a predator-prey model from 42 numbers; see runs/lynx_hare
	$(BIN)/sciinf run pipelines/lynx_hare.py --out runs/lynx_hare

test: .venv/ready-test ## run the quick tests (WORKERS=n processes, TESTS=path or options for pytest)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

pages: .venv/ready-test ## follow README.md, the tutorials, the reference and the notebooks, block by block
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m pages tests/docs

docs: .venv/ready-docs ## build the site from README.md, docs/ and the docstrings into build/site
	$(BIN)/mkdocs build --strict

shapes: .venv/ready-test ## run quick and slow tests with every annotated shape and type checked at run time
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long and not pages" --jaxtyping-packages=sciinf,beartype.beartype $(TESTS)

slow: .venv/ready-test ## run the tests that take more than a second each
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow and not long" $(TESTS)

long: .venv/ready-test ## run the tests that need minutes each
	$(BIN)/python -m pytest -n $(WORKERS) -m long $(TESTS)

check: lint format-check imports spelling types test slow pages ## all of it

lint: .venv/ready-dev ## look for faults (ruff)
	$(BIN)/ruff check .

format: .venv/ready-dev ## put every file into the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

format-check: .venv/ready-dev ## see whether every file is in the house format
	$(BIN)/ruff format --check .

types: .venv/ready-dev ## check the types (pyright)
	$(BIN)/pyright

imports: .venv/ready-test ## check that imports go down only (import-linter)
	$(BIN)/lint-imports

spelling: .venv/ready-dev ## check the spelling
	$(BIN)/codespell

constraints: .venv/ready-dev ## write the versions in .venv to constraints.txt, after testing with them
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep == ; } \
		> constraints.new
	mv constraints.new constraints.txt

clean: ## remove .venv, caches and built files; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# What is installed, by purpose: `run` is the library, `test` and `dev` are extras of pyproject.toml. Each is
# installed again only when pyproject.toml or the tested versions have changed since.

.venv/ready-run: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/ready-%: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[$*]'
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("sciinf needs Python 3.11 or newer, and $(PYTHON) is %d.%d: try make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
