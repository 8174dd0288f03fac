# `make` says what there is. Without make: python3 scripts/setup.py, then .venv/bin/python -m app …
PYTHON ?= python3
VENV := .venv/bin/python
COMPILE := $(VENV) -m uv pip compile --quiet pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock'

.PHONY: help run test check format lock upgrade drill compose-drill figures dev

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run:  ## Install what is missing, migrate the database and serve (HOST, PORT)
	@$(PYTHON) scripts/setup.py
	@exec $(VENV) -m app serve --migrate

test: dev  ## Run the tests (ARGS="-k rooms" picks some)
	@$(VENV) -m pytest --numprocesses 3 --dist loadfile $(ARGS)

check: dev  ## Formatting, lint, types and floors
	@$(VENV) -m ruff format --check
	@$(VENV) -m ruff check
	@$(VENV) -m mypy
	@.venv/bin/lint-imports --no-logo

format: dev  ## Format the code and put its imports in order
	@$(VENV) -m ruff check --fix --select I
	@$(VENV) -m ruff format

lock: dev  ## Pin what pyproject.toml asks for, keeping the pins that still fit
	@$(COMPILE) --output-file requirements/base.txt
	@$(COMPILE) --output-file requirements/dev.txt --group dev --constraint requirements/base.txt

upgrade: COMPILE += --upgrade
upgrade: lock  ## Pin the newest versions

drill: dev  ## Remove every example from a copy of the tree and run everything in it
	@$(VENV) scripts/removal_drill.py

compose-drill: dev  ## Bring docker-compose.yml up from a copy of the tree, try it, take it down
	@$(VENV) scripts/compose_drill.py

figures: dev  ## Measure the figures of docs/figures.md on a clean clone
	@$(VENV) scripts/figures.py --tests

dev:
	@$(PYTHON) scripts/setup.py --dev
