# `make` lists the targets. Set-up needs Python 3.11 or newer and nothing else; it happens by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Pinned, because the newest torch may pull gigabytes of GPU packages; `make TORCH=...` takes another build.
TORCH ?= torch==2.13.0
SEED ?= 0
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export OMP_NUM_THREADS ?= 2

# One process per core, each with one thread. worksteal keeps the tests of a file together, so that they share fixtures.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal --durations=10

# MODEL=dimoo: the small Lumina-DiMOO in the place of the small Janus.
DEMO := $(if $(MODEL),--config configs/shapes/$(MODEL)_demo.yaml)
RUNS := runs/$(if $(MODEL),$(MODEL)_)

.DEFAULT_GOAL := help
# Beside the environment, not in it: lmms-eval needs an older filelock.
LMMS := $(VENV)/lmms-eval
.PHONY: help setup demo full seeds test types test-fast test-slow kills coverage lmms test-lmms golden lint format docs evidence checkpoint clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

setup: $(VENV)/.ready  ## make the virtual environment and install everything

demo: setup  ## the whole method on the Shapes world, minutes on a CPU: runs/demo/report.html (MODEL=dimoo: runs/dimoo_demo)
	$(BIN)/pairuni demo $(DEMO) --output $(RUNS)demo

full: setup  ## the longer training run of configs/shapes/full.yaml (under an hour)
	$(BIN)/pairuni train --config configs/shapes/full.yaml

seeds: setup  ## the demo over three seeds, then their tables as in docs/results.md (MODEL as for demo)
	for seed in 0 1 2; do $(BIN)/pairuni demo $(DEMO) --seed $$seed --output $(RUNS)seed_$$seed; done
	$(BIN)/python benchmarks/seed_table.py --parts $(RUNS)seed_0 $(RUNS)seed_1 $(RUNS)seed_2

test: setup  ## lint, then types and all tests but the long ones side by side (minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory -j2 types test-fast

types: setup
	$(BIN)/pyright

test-fast: setup
	$(PARALLEL) -m "not slow"

$(VENV)/.cluster: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,cluster]"
	@touch $@

test-slow: $(VENV)/.cluster  ## kills, soaks and whole runs; installs Ray first
	$(PARALLEL) -m slow

kills: setup  ## twenty kill -9 at random moments, seeded: make kills SEED=7 (minutes)
	PAIRUNI_KILL_SEED=$(SEED) $(BIN)/pytest -m slow -s tests/train/test_kills.py

coverage: setup  ## the fast tests with the share of lines of src that they run; fails below 90 %
	$(PARALLEL) -m "not slow" --cov=pairuni --cov-report=term --cov-fail-under=90

$(LMMS)/.ready: $(VENV)/.ready .ci/lmms-eval.txt
	rm -rf $(LMMS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(LMMS) -r .ci/lmms-eval.txt
	@touch $@

lmms: $(LMMS)/.ready  ## install lmms-eval into a folder of its own, without its large dependencies

test-lmms: lmms  ## the tests of the model for lmms-eval, which skip without it
	PYTHONPATH=$(abspath $(LMMS)) $(BIN)/pytest tests/adapters

golden: setup  ## write the committed curve of tests/train/test_golden.py anew
	PAIRUNI_WRITE_GOLDEN=1 $(BIN)/pytest tests/train/test_golden.py

lint: setup  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

format: setup  ## ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the documentation as a website that opens from disk: build/site/index.html
	$(BIN)/sphinx-build -E -W --keep-going -q -c docs/_site -d build/doctrees docs build/site
	@echo build/site/index.html

evidence: setup  ## the tables and figures of docs/evidence.md from the committed results
	$(BIN)/python benchmarks/evidence.py

checkpoint: setup  ## make the shipped Shapes Janus again from nothing, or with MODEL=dimoo the other (under an hour)
	$(BIN)/pairuni pretrain $(if $(MODEL),--config configs/pretrain/shapes_$(MODEL).yaml,--output runs/shapes-janus)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache src/*.egg-info
