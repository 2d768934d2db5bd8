# Two commands need nothing but python3 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo up down inbox test check bench lock clean

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/installed ## Create .venv and install what is pinned in requirements.lock.

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flat Earth needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned dependencies into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.lock
	@echo "Installing the pinned tools of development into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: setup ## Load a demo workspace, postpone its stale cards through Dagster, show what happened.
	@$(BIN)/flatearth demo --run

up: setup ## Run embedded Postgres, the UI and the daemon until Ctrl-C.
	@$(BIN)/flatearth up

inbox: setup .venv/installed-inbox ## Look at the emails of development in the browser; `make up` sends them there from then on.
	@$(BIN)/flatearth inbox

.venv/installed-inbox: .venv/installed requirements-inbox.lock
	@echo "Installing the pinned development inbox into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-inbox.lock
	@touch $@

down: setup ## Stop what runs in the background.
	@$(BIN)/flatearth down

test: setup ## Run the whole suite on a Postgres of its own.
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: .venv/installed-dev ## Format, lint, types, layers, SQL.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/ty check
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql

bench: setup ## Measure the headline figures; takes a while and some disk.
	@missed=0; for module in entropy queue notifications webhooks; do $(BIN)/python -m benchmarks.$$module || missed=1; done; exit $$missed

lock: .venv/installed-dev ## Pin the dependencies anew, within the ranges of pyproject.toml.
	$(BIN)/uv pip compile pyproject.toml --group test $(LOCK) --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group test --group dev $(LOCK) --constraints requirements.lock --output-file requirements-dev.lock
	$(BIN)/uv pip compile --group inbox $(LOCK) --constraints requirements.lock --output-file requirements-inbox.lock

LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-strip-extras --custom-compile-command 'make lock'

clean: ## Remove .venv; the embedded database stays.
	rm -rf .venv
