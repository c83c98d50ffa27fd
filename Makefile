# make demo   the whole loop on real data (needs Python >= 3.10 and nothing else)
# make demo-text  the same on texts
# make test   lint, types, layers, the site, tests (a Label Studio server among them)
# make docs   the site, into build/site
# make slow   the tests that are left out there, one after another
# make fuzz   a million damaged inputs for everything that reads files of others
# make bench  quick benchmarks
# make dist   wheel and sdist, tested from outside of the checkout
# make test-lowest  the core's tests with the lowest versions that pyproject.toml allows
# make clean  removes what these made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The server that the annotator is tested against; its pins are not ours.
SERVER := .venv-labelstudio
SERVER_PINS := tests/annotators/label_studio_requirements.txt
LOWEST := .venv-lowest
PYTEST_ARGS ?=
FUZZ_INPUTS ?= 1000000

.PHONY: demo demo-text test slow fuzz lint docs bench dist test-lowest clean $(SERVER)

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

$(SERVER)/ready: $(SERVER_PINS)
	test -x $(SERVER)/bin/python || $(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(SERVER_PINS)
	touch $@

$(SERVER): $(SERVER)/ready

demo: $(VENV)/demo
	$(BIN)/coevo-ray demo

demo-text: $(VENV)/demo
	$(BIN)/coevo-ray demo --texts

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m website

docs: $(VENV)/dev
	$(BIN)/python -m website

test: lint $(SERVER)/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu and not labelstudio' $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m labelstudio tests/annotators

slow: $(VENV)/bench
	$(BIN)/python -m pytest -m 'slow and not gpu and not labelstudio' $(PYTEST_ARGS)

fuzz: $(VENV)/dev
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS)

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.ingest --json --quick
	$(BIN)/python -m benchmarks.encode --json --quick
	$(BIN)/python -m benchmarks.encode_memory --json --quick
	$(BIN)/python -m benchmarks.text_encode --json --quick
	$(BIN)/python -m benchmarks.text_run --json --quick
	$(BIN)/python -m benchmarks.sae --json --quick
	$(BIN)/python -m benchmarks.scale --json --quick
	$(BIN)/python -m benchmarks.scale --json --quick parts
	$(BIN)/python -m benchmarks.selection --json --quick
	$(BIN)/python -m benchmarks.gate --json --quick
	$(BIN)/python -m benchmarks.feed --json --quick
	$(BIN)/python -m benchmarks.text_feed --json --quick
	$(BIN)/python -m benchmarks.epoch_memory --json --quick
	$(BIN)/python -m benchmarks.demo --json --quick
	$(BIN)/python -m benchmarks.vector_heads --json --quick
	$(BIN)/python -m benchmarks.policies --json --quick
	$(BIN)/python -m benchmarks.labels --json --quick
	$(BIN)/python -m benchmarks.retrieval --json --quick
	$(BIN)/python -m benchmarks.dedup --json --quick
	$(BIN)/python -m benchmarks.consensus --json --quick
	$(BIN)/python -m benchmarks.objectives --json --quick
	$(BIN)/python -m benchmarks.head_start --json --quick
	$(BIN)/python -m benchmarks.battery targets --json --quick
	$(BIN)/python -m benchmarks.battery labels --json --quick
	$(BIN)/python -m benchmarks.battery policies --json --quick
	$(BIN)/python -m benchmarks.battery networks --json --quick
	$(BIN)/python -m benchmarks.battery stop --json --quick

dist: $(VENV)/dev
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m pytest -m slow tests/test_dist.py

# Without the extras: their lowest versions are those of other projects' releases of the time.
test-lowest: $(VENV)/dev
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(BIN)/python -m uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --requirements pyproject.toml
	$(BIN)/python -m uv pip install --quiet --python $(LOWEST) hypothesis pytest pytest-timeout scikit-learn
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider -m 'not gpu' tests/core tests/test_config.py $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(SERVER) $(LOWEST) coevo-demo coevo-demo-text runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
