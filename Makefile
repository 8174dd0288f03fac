# `make` says what there is. Without make: python3 scripts/setup.py, then .venv/bin/python -m app …
PYTHON ?= python3
COOLDOWN ?= 14 days
SBOM ?= sbom.json
# Timing of ecdsa's own arithmetic, which jose leaves to cryptography here: docs/supply-chain.md.
ACCEPTED := --ignore-vuln GHSA-wj6h-64fc-37mp
VENV := .venv/bin/python
COMPILE := $(VENV) -m uv pip compile --quiet pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command 'make lock'

.PHONY: help run test engines processes browser ledger mutations check licences sbom advisories format lock upgrade drill up rolling-restart compose-test figures bench dev

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run:  ## Install what is missing, migrate the database and serve (HOST, PORT)
	@$(PYTHON) scripts/setup.py
	@exec $(VENV) -m app serve --migrate

test: dev  ## Run the tests (ARGS="-k rooms" picks some)
	@$(VENV) -m pytest --numprocesses 4 --dist loadfile $(ARGS)

engines: dev  ## Run on PostgreSQL what `make test` runs on SQLite
	@$(VENV) -m pytest --numprocesses 4 --dist loadfile -m postgresql $(ARGS)

processes: dev  ## Run the tests of whole processes: commands, workers, drains, faults
	@$(VENV) -m pytest --numprocesses 3 --dist loadfile --timeout 180 -m "" tests/processes tests/delivery $(ARGS)

browser: dev  ## Run the tests of the pages in Chromium
	@$(VENV) -m pytest --numprocesses 3 --dist loadfile --timeout 180 tests/browser $(ARGS)

ledger: dev  ## Hurt two servers, PostgreSQL and Redis, and account for every event (ARGS="--rounds 10")
	@$(VENV) -m tests.delivery.ledger $(ARGS)

mutations: dev  ## Leave out what delivery rests on, one thing after the other: the ledger must show it
	@$(VENV) -m tests.delivery.ledger --mutations --rounds 1 $(ARGS)

check: dev  ## Formatting, lint, types, floors, licences and workflows
	@$(VENV) -m ruff format --check
	@$(VENV) -m ruff check
	@$(VENV) -m mypy
	@.venv/bin/lint-imports --no-logo
	@$(VENV) scripts/licences.py --check
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@.venv/bin/zizmor --offline --quiet --no-progress .github

licences: dev  ## Write docs/licences.md anew
	@$(VENV) scripts/licences.py

sbom: dev  ## Write sbom.json, what the service is made of (CycloneDX 1.6)
	@$(VENV) -W ignore::UserWarning -m cyclonedx_py requirements requirements/base.txt \
		--pyproject pyproject.toml --spec-version 1.6 --output-reproducible --output-file $(SBOM)

advisories: dev  ## Ask whether anything is known against a locked package (needs the network)
	@$(VENV) -m uv tool run --exclude-newer '$(COOLDOWN)' pip-audit@2.10.1 --strict \
		--disable-pip --require-hashes --requirement requirements/base.txt $(ACCEPTED)

format: dev  ## Format the code and put its imports in order
	@$(VENV) -m ruff check --fix --select I
	@$(VENV) -m ruff format

lock: dev  ## Pin what pyproject.toml asks for, keeping the pins that still fit
	@$(COMPILE) --output-file requirements/base.txt
	@$(COMPILE) --output-file requirements/dev.txt --group dev --constraint requirements/base.txt
	@$(COMPILE) bench/requirements.in --output-file bench/requirements.txt --no-emit-index-url \
		--constraint requirements/base.txt

upgrade: COMPILE += --upgrade --exclude-newer '$(COOLDOWN)'
upgrade: lock  ## Pin the newest versions that are two weeks old (COOLDOWN="0 days")

drill: dev  ## Remove every example, and then accounts/, from a copy and run everything in it
	@PYTHONPATH=. $(VENV) scripts/removal_drill.py

up:  ## Bring docker-compose.yml up, wait until it is ready, say where it is
	@$(PYTHON) scripts/deploy.py up

rolling-restart:  ## Replace the replicas that `make up` started, one at a time, under load too
	@$(PYTHON) scripts/deploy.py rolling-restart

compose-test: dev  ## Bring docker-compose.yml up from a copy of the tree, use it, hurt it, look at it
	@PYTHONPATH=. $(VENV) scripts/compose_test.py $(ARGS)

figures: dev  ## Measure the figures of docs/figures.md on a clean clone
	@$(VENV) scripts/figures.py --tests

bench: bench/.venv/installed  ## Measure it beside its peers (ARGS="--subscribers 1000", --smoke)
	@bench/.venv/bin/python -m bench.run $(ARGS)

bench/.venv/installed: bench/requirements.txt
	@$(PYTHON) -m venv --clear bench/.venv
	@bench/.venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
		--require-hashes --requirement bench/requirements.txt
	@touch $@

dev:
	@$(PYTHON) scripts/setup.py --dev
