# Short names for the scripts; what they do is said by `bash scripts/NAME.sh --help`.
.DEFAULT_GOAL := help
.PHONY: help setup test quick fuzz lint format types docs tables quickstart bench-check matrix

BIN := .venv/bin

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv with torch, fairseq and this package (minutes the first time)
	@bash scripts/setup.sh

test:  ## everything that CI runs: linters, types, all tests
	@bash scripts/test.sh

quick:  ## the same without the slow tests, in some 70 seconds
	@bash scripts/test.sh --quick

fuzz:  ## break every format that a command reads, two minutes each (WFF_FUZZ_SECONDS=120)
	WFF_FUZZ_SECONDS=$${WFF_FUZZ_SECONDS:-120} $(BIN)/pytest tests/test_fuzz.py

lint: setup  ## ruff and shellcheck; changes no file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find scripts .ci -type f ! -name "*.py" -exec $(BIN)/shellcheck {} +

format: setup  ## let ruff rewrite what `make lint` complains of
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup  ## mypy on the core
	$(BIN)/mypy

docs:  ## serve the pages of docs/ at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

tables:  ## write the generated tables of docs/ again, from the code
	$(BIN)/python docs/tables.py

quickstart:  ## a small model, trained and evaluated, in minutes
	@bash scripts/quickstart.sh

bench-check:  ## measure every method's cost again, and fail where it is worse than benchmarks/cpu/quick says
	@OMP_NUM_THREADS=2 $(BIN)/wff bench --quick --check benchmarks/cpu/quick/bench.csv

matrix:  ## all tests on each of Python 3.10, 3.11, 3.12 that is here, in .venv-3.10 and so on
	@failed=""; missing=""; \
	for version in 3.10 3.11 3.12; do \
	    if ! python=$$(bash scripts/setup.sh --find $$version 2>/dev/null); then missing="$$missing $$version"; continue; fi; \
	    echo "==> Python $$version: $$python"; \
	    bash scripts/setup.sh --venv .venv-$$version --python "$$python" \
	        && bash scripts/test.sh --venv .venv-$$version || failed="$$failed $$version"; \
	done; \
	if [ -n "$$missing" ]; then echo "not found, not tested: Python$$missing"; fi; \
	if [ -n "$$failed" ]; then echo "failed on: Python$$failed"; exit 1; fi
