# make demo   the whole loop on real data (needs Python >= 3.10 and nothing else)
# make test   lint, types, layers, tests
# make bench  quick benchmarks
# make clean  removes what these made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: demo test lint bench clean

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else f"Python 3.10 or newer is needed, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/dev: $(VENV)/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps dictionary-learning
	touch $@

demo: $(VENV)/demo
	$(BIN)/coevo-ray demo

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu' $(PYTEST_ARGS)

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.ingest --json --quick
	$(BIN)/python -m benchmarks.encode --json --quick
	$(BIN)/python -m benchmarks.encode_memory --json --quick
	$(BIN)/python -m benchmarks.sae --json --quick
	$(BIN)/python -m benchmarks.selection --json --quick
	$(BIN)/python -m benchmarks.feed --json --quick
	$(BIN)/python -m benchmarks.policies --json --quick

clean:
	rm -rf $(VENV) coevo-demo runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
