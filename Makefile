# Two commands on a fresh machine with Python >= 3.11: `make demo` and `make test`.
# Every target makes the environment it needs in .venv; a stamp per extra is renewed when the pins or the build file change.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
comma  := ,

# One thread a process: the test workers are the parallelism, and small solves lose time to thread hand-offs.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: help demo test slow gpu lint format types contracts doctest docs bench clean
.SECONDARY:

help:
	@echo "make demo   fit a bridge and a forecaster to data that ships with the package; scores, pictures, a saved model"
	@echo "make test   the fast tests (no network, no accelerator)"
	@echo "make gpu    the tests that want a GPU"
	@echo "make lint   style, formatting, types, import contracts"
	@echo "make docs   the documentation, warnings as errors"
	@echo "make bench  timings beside torchsde; import cost"
	@echo "make clean  remove what the targets made"

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "neurosde needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# .installed-sc+plot installs the extras sc and plot
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(subst +,$(comma),$*)]"
	@touch $@

demo: $(VENV)/.installed-sc+plot
	$(BIN)/neurosde demo --out demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not gpu and not network"

slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n $(JOBS) -m "slow and not gpu and not network"

gpu: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m "gpu and not slow"

lint: format types contracts

format: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/basedpyright

contracts: $(VENV)/.installed-test
	$(BIN)/lint-imports

doctest: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n $(JOBS) --doctest-modules neurosde datasets

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-test
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) demo docs/_build docs/api/_generated build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
