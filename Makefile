# The only commands a newcomer needs. Each works from a clean clone with Python >= 3.11 and make, nothing else.

PYTHON ?= python3
BIN := .venv/bin
# Written last, so that an interrupted installation is started again rather than used.
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test extras check search nightly fuzz clean

help:
	@echo 'make demo    three regions, three sites, real traffic; a region dies and no user notices'
	@echo 'make test    the tests'
	@echo 'make extras  the tests that need more: a fuzzer, Chromium (by apt-get, as root), another Python, Dask, matplotlib, root'
	@echo 'make check   lint, format, types, import contracts'
	@echo 'make search  the laws alone, over examples never tried before: what `make test` repeats, this looks for'
	@echo 'make nightly a million decisions, in every form of a policy, compared byte for byte, and a thousand nodes that join: some forty minutes'
	@echo 'make fuzz    every decoder for an hour, coverage-guided; FUZZ_SECONDS=60 for less'
	@echo 'make clean   remove .venv and every cache'
	@echo
	@echo 'DEMO="--seconds 20 --rate 400" make demo   passes options on; PYTHON=python3.12 make test   picks the Python'

demo: $(INSTALLED)
	$(BIN)/edgelattice demo $(DEMO)

test: $(INSTALLED)
	$(BIN)/pytest $(TESTS)

extras: $(INSTALLED)
	tests/extras.sh $(TESTS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests with a `given` or a state machine; a failure prints how to see it again.
search: $(INSTALLED)
	HYPOTHESIS_PROFILE=search $(BIN)/pytest -m hypothesis $(TESTS)

nightly: SEED ?= $(shell date +%s)
nightly: POLICIES ?= 4000
nightly: $(INSTALLED)
	@echo 'SEED=$(SEED) make nightly   does the same again'
	HYPOTHESIS_PROFILE=nightly EDGELATTICE_DIFFERENTIAL=$(POLICIES) EDGELATTICE_REQUESTS=250 $(BIN)/pytest -s -k every_form \
	  --hypothesis-seed=$(SEED) tests/router/decision/test_differential.py
	EDGELATTICE_NIGHTLY=1 $(BIN)/pytest -s tests/sim/test_join_storm.py

# What is found goes to .fuzz, and the next run begins with it; TESTS="-k wire.decode" chooses.
fuzz: FUZZ_SECONDS ?= 3600
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,fuzz]'
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_CORPUS=$(CURDIR)/.fuzz $(BIN)/pytest -s tests/fuzz/test_atheris.py $(TESTS)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'edgelattice needs Python >= 3.11, and $(PYTHON) is' "$$($(PYTHON) --version 2>&1)." \
	       'Name another one: make PYTHON=python3.12 $(or $(MAKECMDGOALS),demo)' >&2; exit 1; }
	@echo 'Installing into .venv (once; again when pyproject.toml or constraints.txt change) ...'
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find lattice router sim tests -name __pycache__ -type d -prune -exec rm -rf {} +
