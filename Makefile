# Everything here works on a fresh machine with Python 3.11 or later, make, and a package index.

PYTHON ?= python3
VENV := .venv
PINNED := .venv-pinned
BIN := $(VENV)/bin
# Two processes, each with whole files of tests.
OPTIONS := -m pytest -n 2 --dist loadfile
PYTEST := SELFHEALD_TEST_PINNED=$(CURDIR)/$(PINNED)/bin/python $(BIN)/python $(OPTIONS)
# What depends on the versions of dbt, DuckDB and pydantic: reading, building, publishing, and the whole way.
VERSIONED := tests/unit tests/integration/test_bundled_project.py tests/integration/test_catalog_reader.py \
	tests/integration/test_check_child.py tests/integration/test_child.py tests/integration/test_publish.py \
	tests/integration/test_selection.py tests/integration/test_table_checker.py tests/acceptance/test_ready.py \
	tests/acceptance/test_staffing_project.py

.PHONY: help demo test test-pinned test-systemd soak bench pictures reference lint format types clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(VENV)/.installed ## Set up, then play the whole story in a temporary folder
	$(BIN)/selfheald demo

test: $(VENV)/.tests $(PINNED)/.installed ## Set up, then run all tests on the newest versions, and those of both together
	$(PYTEST) -m "not systemd"

test-pinned: $(PINNED)/.tests ## Set up, then run the tests that depend on versions on the pinned ones
	$(PINNED)/bin/python $(OPTIONS) -m "not promise" $(VERSIONED)

test-systemd: $(VENV)/.tests ## Set up, then run the tests that boot a systemd of their own (as root, on Linux)
	$(BIN)/python -m pytest tests/systemd

soak: $(VENV)/.tests $(PINNED)/.installed ## Set up, then try for an hour to break each promise, and print the figures
	SELFHEALD_SOAK=1 $(PYTEST) -m soak

bench: $(VENV)/.tests $(PINNED)/.installed ## Set up, then measure all beside its peers; ARGS=--large: more of all
	$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/.installed ## Draw the pictures of the README anew, from what the commands print
	$(BIN)/python docs/pictures.py

reference: $(VENV)/.installed ## Write the tables of configuration keys and the man page anew, from the program itself
	$(BIN)/python docs/configuration_tables.py
	$(BIN)/python docs/man_page.py

lint: $(VENV)/.tests ## Lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.tests ## Format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.tests ## Type check
	$(BIN)/mypy
	cd selfheald/child && ../../$(BIN)/mypy --explicit-package-bases --config-file ../../pyproject.toml .

clean: ## Remove what these commands made
	rm -rf $(VENV) $(PINNED) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.installed: pyproject.toml requirements/newest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/newest.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.installed requirements/dev.txt requirements/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.txt \
		--requirement requirements/bench.txt
	touch $@

$(PINNED)/.tests: $(PINNED)/.installed requirements/dev.txt
	$(PINNED)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.txt \
		--constraint requirements/pinned.txt
	touch $@

$(PINNED)/.installed: pyproject.toml requirements/pinned.txt
	$(PYTHON) -m venv $(PINNED)
	$(PINNED)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/pinned.txt
	$(PINNED)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
