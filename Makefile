# All that is needed is a Python from 3.11 on, with its venv module, and make.
# `make` alone tells what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One stamp guards the environment, so two targets must not build it at once.
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
N ?= 1000
UV ?= $(or $(wildcard $(BIN)/uv),uv)

.PHONY: help venv demo brokers test check format docs bench clusters storm constraints clean

help: ## Tell what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## Make the virtual environment (the other targets do it, too)

# The first Python that is new enough, or the one that PYTHON= names.
$(VENV)/.pinned: constraints.txt
	@python=; \
	for candidate in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: found no Python from 3.11 on; name one: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	"$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement constraints.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.pinned pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv ## Show the main job on this machine (BUS=URL on a bus of yours, BUS=amqp or BUS=kafka on a private one)
	$(BIN)/remoting-bus demo $(if $(BUS),--bus "$(BUS)")

brokers: venv ## Bring the brokers that tests start: RabbitMQ by apt (as root), Kafka by Maven
	$(BIN)/python scripts/bring_brokers.py

test: venv ## Run every test
	$(BIN)/python scripts/bring_brokers.py --before-tests
	$(BIN)/python -m pytest

check: venv ## Format, lint, types, layers, the wheel in a clean environment, the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/smoke_wheel.py
	$(BIN)/python scripts/build_docs.py

format: venv ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: venv ## Build the documentation into site/
	$(BIN)/python scripts/build_docs.py

bench: venv ## Run the benchmarks
	$(BIN)/python -m benchmarks

clusters: venv ## Kill, stop, cut off and restart nodes of clusters of each broker, under load
	$(BIN)/python -m benchmarks run failover

storm: venv ## Drive N seeded conversations over the lossy network (N=1000)
	$(BIN)/python scripts/storm.py --seeds $(N)

constraints: ## Pin the newest versions that fit (needs uv)
	$(UV) pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	    --all-extras --group dev \
	    --custom-compile-command "make constraints" --output-file constraints.txt pyproject.toml

clean: ## Remove what was made: environment, caches, site, coverage
	rm -rf $(VENV) site dist build .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache \
	    .ruff_cache .import_linter_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
