# make demo | test | bench | lint | clean. Each creates the environment .venv itself, once.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FULL ?=
PYTEST_ARGS ?=

.PHONY: help demo test test-slow bench lint format clean env

help:
	@echo "make demo          raw shop log -> dataset -> compression summary -> PyTorch batches (FULL=1: all rows)"
	@echo "make test          the tests (PYTEST_ARGS=... for pytest); make test-slow runs the slow ones"
	@echo "make bench         the benchmarks"
	@echo "make lint          ruff, mypy, import directions"
	@echo "make clean         removes the environment and everything generated"

env: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@scripts/install.sh $(VENV)

demo: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	@$(BIN)/python -m dedup_storage.demo $(if $(filter 1 yes true,$(FULL)),--full)

test: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	$(BIN)/python -m pytest -m "not slow and not airflow" $(PYTEST_ARGS)

test-slow: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	$(BIN)/python -m pytest -m "slow and not airflow" $(PYTEST_ARGS)

bench: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	@set -e; mkdir -p out/benchmarks; for file in benchmarks/[a-z]*.py; do \
	    name=$$(basename $$file .py); echo "== $$name"; \
	    $(BIN)/python $$file --scale small --json out/benchmarks/$$name.json; done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist out warehouse spark-warehouse metastore_db derby.log *.egg-info \
	    .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
