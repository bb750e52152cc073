# Everything runs in .venv, made by `make setup`. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# This build of torch installs on a CPU machine without gigabytes of CUDA packages, so it goes first and exactly.
TORCH := torch==2.13.0

.PHONY: demo test test-gpu chaos check setup setup-dev clean

demo: setup
	@$(BIN)/worlds run --preset homestead-tiny --minutes 5 --run-dir runs/demo

test: setup-dev
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-gpu: setup-dev
	@$(BIN)/python -m pytest tests/gpu

# Up to 15 minutes: every fault, at every call. SEED chooses another order.
SEED ?= 1
chaos: setup-dev
	@$(BIN)/python -m tests.chaos --seed $(SEED) --report runs/chaos.json
	@$(BIN)/python -m pytest -m long

check: setup-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

setup: $(VENV)/.installed

setup-dev: setup $(VENV)/.installed-dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "The venv module is missing; on Debian: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (once; a few minutes)" >&2
	@$(PIP) $(TORCH)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what tests and checks need into $(VENV)" >&2
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
