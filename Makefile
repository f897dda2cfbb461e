# make demo | test | bench | docs | lint | clean. Each creates the environment .venv itself, once.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Airflow's dependencies and Spark's never share an environment. AIRFLOW_CONSTRAINTS: Airflow's published ones, a file or URL.
AIRFLOW_VENV ?= .venv-airflow
# Releases of Spark that are tried, each in an environment of its own, and what is run on them.
ENGINES ?= 4.0.5 4.1.4
ENGINE_VENVS ?= .venv-engines
ENGINE_TESTS ?= tests/spark/test_engine.py tests/contract/test_versions.py tests/contract/test_write.py \
    tests/contract/test_features.py tests/spark/test_joins.py
AIRFLOW_CONSTRAINTS ?=
# The site's builder has an environment of its own too.
DOCS_VENV ?= .venv-docs
# So has the S3 store that tests start.
SERVERS_VENV ?= .venv-servers
FULL ?=
PYTEST_ARGS ?=
# Tests run in so many processes at a time, each with a Spark session of its own (2 GB); 0 runs them in pytest's own.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=30

.PHONY: help demo test test-slow test-airflow test-engines servers bench docs reference notebooks lint format clean env

help:
	@echo "make demo          raw shop log -> dataset -> compression summary -> PyTorch batches (FULL=1: all rows)"
	@echo "make test          the tests (PYTEST_ARGS=... for pytest, WORKERS=2 processes)"
	@echo "make test-slow     the slow ones, and ten times the examples of those with random ones"
	@echo "make test-engines  the tests of engines on each release of Spark that is supported, each in an environment of its own"
	@echo "make test-airflow  the DAGs in a real Airflow, in an environment of its own"
	@echo "make servers       what tests of object stores start; without it they are skipped"
	@echo "make bench         the benchmarks"
	@echo "make docs          the documentation site, in out/site; a broken link fails"
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
	$(PYTEST) -m "not slow and not crash and not long and not airflow" $(PYTEST_ARGS)

test-slow: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	$(PYTEST) -m "(slow or crash or long or hypothesis) and not airflow" --hypothesis-profile=thorough $(PYTEST_ARGS)

test-engines: $(STAMP) $(addprefix test-engine-,$(ENGINES))

test-engine-%: $(ENGINE_VENVS)/%/.installed
	@scripts/check_machine.sh >/dev/null
	$(ENGINE_VENVS)/$*/bin/python -m pytest $(ENGINE_TESTS) -m "not slow and not crash" $(PYTEST_ARGS)

# Made by a chain of patterns, they would be removed at the end, and the environments laid again each time.
.PRECIOUS: $(ENGINE_VENVS)/%/.installed
$(ENGINE_VENVS)/%/.installed: setup.cfg | $(STAMP)
	$(BIN)/python -m venv $(ENGINE_VENVS)/$*
	$(BIN)/uv pip install --quiet --python $(ENGINE_VENVS)/$*/bin/python --editable '.[all]' 'pyspark==$*'
	@touch $@

test-airflow: $(STAMP) $(AIRFLOW_VENV)/.installed
	@scripts/check_machine.sh >/dev/null
	AIRFLOW_PYTHON="$(abspath $(AIRFLOW_VENV))/bin/python" $(BIN)/python -m pytest -m airflow tests/airflow $(PYTEST_ARGS)

$(AIRFLOW_VENV)/.installed: setup.cfg | $(STAMP)
	$(BIN)/python -m venv $(AIRFLOW_VENV)
	$(BIN)/uv pip install --quiet --python $(AIRFLOW_VENV)/bin/python --requirements setup.cfg --extra airflow \
	    $(if $(AIRFLOW_CONSTRAINTS),--constraints $(AIRFLOW_CONSTRAINTS))
	@touch $@

servers: $(SERVERS_VENV)/.installed

$(SERVERS_VENV)/.installed: setup.cfg | $(STAMP)
	$(BIN)/python -m venv $(SERVERS_VENV)
	$(BIN)/uv pip install --quiet --python $(SERVERS_VENV)/bin/python --requirements setup.cfg --extra servers
	@touch $@

bench: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	@set -e; mkdir -p out/benchmarks; for file in benchmarks/[a-z]*.py; do \
	    name=$$(basename $$file .py); echo "== $$name"; \
	    $(BIN)/python $$file --scale small --json out/benchmarks/$$name.json; done

reference: $(STAMP)
	$(BIN)/python -m scripts.reference

notebooks: $(STAMP)
	@scripts/check_machine.sh >/dev/null
	$(BIN)/python -m scripts.notebooks

docs: reference notebooks $(DOCS_VENV)/.installed
	$(DOCS_VENV)/bin/zensical build --clean --strict

$(DOCS_VENV)/.installed: setup.cfg | $(STAMP)
	$(BIN)/python -m venv $(DOCS_VENV)
	$(BIN)/uv pip install --quiet --python $(DOCS_VENV)/bin/python --requirements setup.cfg --extra docs
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(AIRFLOW_VENV) $(DOCS_VENV) $(SERVERS_VENV) docs/reference docs/notebooks build dist out warehouse spark-warehouse metastore_db derby.log *.egg-info \
	    .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
