# make demo   installs into .venv and runs configs/quickstart.yaml in a new run folder
# make test   installs and runs the tests, real trainings among them
# make check  linters, types and unit tests
# make clean  removes what these made; run folders and your own files stay

PYTHON ?= python3
VENV ?= .venv
# Two of however many there are: the quickstart's batch of 16 is not made for more.
TWO_GPUS := 0,1
DEMO_GPUS ?= $(or $(CUDA_VISIBLE_DEVICES),$(TWO_GPUS))
DEMO_RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

# Set by many images: every start of a program would then compile its source once more.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
DATA := configs/quickstart_data
UNIT := not e2e and not train and not long and not slow and not gpu
CORE_TESTS := $(addprefix tests/,core frameworks launchers rungs stories)
# Much of a test is waiting; a file's tests stay together, since they share what they trained.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.DELETE_ON_ERROR:
.PHONY: demo test check types units-of-core units-of-the-rest clean machine

demo: $(VENV)/.train $(DATA)/train.jsonl
	CUDA_VISIBLE_DEVICES=$(DEMO_GPUS) $(BIN)/autotune run configs/quickstart.yaml \
	  --run-dir $(DEMO_RUN)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST)

# Two halves of about the same length: of two workers each would collect both.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 3 types units-of-core units-of-the-rest

types: $(VENV)/.dev
	$(BIN)/mypy

units-of-core: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m '$(UNIT)' $(PYTEST) $(CORE_TESTS)

units-of-the-rest: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m '$(UNIT)' $(PYTEST) $(addprefix --ignore=,$(CORE_TESTS))

clean:
	rm -rf $(VENV) $(DATA) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find autotune policies configs tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(DATA)/train.jsonl: configs/quickstart_data.py | $(VENV)/.train
	$(BIN)/python configs/quickstart_data.py $(DATA)

# A stamp is younger than what it was installed from, so that set-up runs once for each change.
$(VENV)/.train: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory machine
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[train]' -c constraints.txt
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install -e '.[train,dev]' -c constraints.txt
	touch $@

# DeepSpeed compiles parts of itself at its first start: a compiler and Python's headers are used.
machine:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) is not here"; \
	  echo "hint: sudo apt-get install python3 python3-venv python3-dev g++"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: autotune needs Python 3.10 or newer, and $(PYTHON) is older"; \
	  echo "hint: name a newer one: make PYTHON=python3.12 demo"; exit 1; } >&2
	@missing=""; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' \
	  2>/dev/null || missing="$$missing python3-dev"; \
	command -v $${CXX:-c++} >/dev/null || missing="$$missing g++"; \
	test -z "$$missing" || { \
	  echo "error: this machine lacks what autotune is installed and DeepSpeed is built with"; \
	  echo "hint: sudo apt-get install$$missing"; exit 1; } >&2
