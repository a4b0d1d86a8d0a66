# make search, make test and the rest. Beside each target stand its raw commands, for those without
# make: run them in an environment where `pip install -e .[dev]` was done (environment.yml, or
# `python3 -m venv .venv`, `. .venv/bin/activate`, `pip install -e .[dev]`).
#
#   make search PYTHON=python3.12    build .venv with another Python
#   make test VENV=$CONDA_PREFIX     use the environment that is active

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.darts-lib-installed
INSTALLED_SWEEP := $(VENV)/.darts-lib-installed-sweep
INSTALLED_DEV := $(VENV)/.darts-lib-installed-dev

# Show what the cells print, as they print it, and nothing else.
PAPERMILL := $(PY) -m papermill --no-progress-bar --log-level WARNING --stdout-file - --stderr-file -
CIFAR10 := $(CURDIR)/runs/cifar10

# For whatever must not find an earlier run or a GPU: a new empty runs folder, gone afterwards.
FRESH := runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && \
	export DARTS_LIB_RUNS="$$runs" CUDA_VISIBLE_DEVICES=""

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help search lab results sweep test deep lint types unit gpu chapters torture notebooks benchmark cifar10 clean

help:  ## say what each target does
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

# mkdir -p runs/quickstart
# papermill notebooks/03_search.ipynb runs/quickstart/03_search.ipynb -p scale laptop
search: $(INSTALLED)  ## search a cell on the laptop: the digits of scikit-learn, a few minutes
	@mkdir -p runs/quickstart
	$(PAPERMILL) notebooks/03_search.ipynb runs/quickstart/03_search.ipynb -p scale laptop
	@echo "The chapter as it ran, with its figures: runs/quickstart/03_search.ipynb"

# jupyter lab notebooks
lab: $(INSTALLED)  ## open the chapters in JupyterLab
	$(PY) -m jupyterlab notebooks

# mkdir -p runs/results; for each seed 0, 1, 2:
# papermill notebooks/03_search.ipynb runs/results/03_seed0.ipynb -p scale laptop -p seed 0 \
#     -p run_dir "$PWD/runs/results/search-0"
# papermill notebooks/05_retrain.ipynb runs/results/05_seed0.ipynb -p scale laptop -p seed 0 \
#     -p genotype "$PWD/runs/results/search-0" -p run_dir "$PWD/runs/results/retrain-0"
# python -m darts_lib.records runs/results/search-* runs/results/retrain-*
results: $(INSTALLED)  ## three seeds on digits, searched and random cells: the README's table
	@mkdir -p runs/results
	for seed in 0 1 2; do \
		$(PAPERMILL) notebooks/03_search.ipynb runs/results/03_seed$$seed.ipynb -p scale laptop \
			-p seed $$seed -p run_dir "$(CURDIR)/runs/results/search-$$seed" && \
		$(PAPERMILL) notebooks/05_retrain.ipynb runs/results/05_seed$$seed.ipynb -p scale laptop \
			-p seed $$seed -p genotype "$(CURDIR)/runs/results/search-$$seed" \
			-p run_dir "$(CURDIR)/runs/results/retrain-$$seed" || exit 1; \
	done
	$(PY) -m darts_lib.records runs/results/search-? runs/results/retrain-? runs/results/retrain-?/random

# python -m darts_lib.sweep --scale laptop --workers 2
sweep: $(INSTALLED_SWEEP)  ## three searched and three random cells on two workers, the best retrained
	$(PY) -m darts_lib.sweep --scale laptop --workers 2

test: lint types unit gpu chapters  ## style, types, quick tests, notebooks (-k goes on after a failure)

# CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 pytest tests --ignore=tests/gpu -m deep -n 2 --dist worksteal
deep: $(INSTALLED_DEV)  ## what is slow by nature: kills, live kernels, ranks, long runs, real data
	@$(FRESH) && OMP_NUM_THREADS=1 $(PY) -m pytest tests --ignore=tests/gpu -m deep -n 2 --dist worksteal --durations 15

# ruff check
# ruff format --check
# lint-imports
lint: $(INSTALLED_DEV)  ## style of code and notebooks
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/lint-imports

# mypy
types: $(INSTALLED_DEV)  ## types, strict
	$(PY) -m mypy

# CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 pytest tests --ignore=tests/gpu -m "not deep" -n 2 --dist worksteal
unit: $(INSTALLED_DEV)  ## quick tests, without a GPU, in two processes
	@$(FRESH) && OMP_NUM_THREADS=1 $(PY) -m pytest tests --ignore=tests/gpu -m "not deep" -n 2 --dist worksteal --durations 15

# pytest tests/gpu
gpu: $(INSTALLED_DEV)  ## tests that need CUDA, where CUDA is found
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(PY) -m pytest tests/gpu; \
	else \
		echo "tests/gpu left out: torch finds no CUDA device"; \
	fi

# DARTS_LIB_TORTURE=20 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 pytest tests/engine/test_kills.py -k at_random -s
# DARTS_LIB_LONG_STEPS=2000 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 pytest tests/engine/test_long_runs.py
torture: $(INSTALLED_DEV)  ## kill each kind of run 20 times at random, then take 2,000 steps of each order
	@$(FRESH) && export OMP_NUM_THREADS=1 && \
		DARTS_LIB_TORTURE=20 $(PY) -m pytest tests/engine/test_kills.py -k at_random -s && \
		DARTS_LIB_LONG_STEPS=2000 $(PY) -m pytest tests/engine/test_long_runs.py

# The chapters that go on from the search of 03, and at the same time those that stand alone.
AFTER_SEARCH := notebooks/03_search.ipynb notebooks/04_genotype.ipynb notebooks/05_retrain.ipynb \
	notebooks/07_transfer.ipynb
ALONE := $(filter-out $(AFTER_SEARCH),$(sort $(wildcard notebooks/*.ipynb)))

# DARTS_LIB_RUNS=$(mktemp -d) CUDA_VISIBLE_DEVICES= pytest --nbval notebooks
chapters: $(INSTALLED_DEV)  ## run every notebook and compare with the stored outputs
	@$(FRESH) && export OMP_NUM_THREADS=1 && \
	{ $(PY) -m pytest --nbval $(ALONE) & alone=$$!; \
	  $(PY) -m pytest --nbval $(AFTER_SEARCH); search=$$?; \
	  wait $$alone && [ $$search = 0 ]; }

# export DARTS_LIB_RUNS=$(mktemp -d) CUDA_VISIBLE_DEVICES=
# jupyter nbconvert --to notebook --execute --inplace \
#     --ExecutePreprocessor.record_timing=False notebooks/*.ipynb
# jupyter nbconvert --to notebook --inplace --coalesce-streams notebooks/*.ipynb
# nbstripout --keep-output --keep-count --keep-id \
#     --extra-keys "metadata.language_info.version" notebooks/*.ipynb
notebooks: $(INSTALLED_DEV)  ## run all chapters in order and store their outputs
	@$(FRESH) && $(PY) -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb
	$(PY) -m nbconvert --to notebook --inplace --coalesce-streams notebooks/*.ipynb
	$(PY) -m nbstripout --keep-output --keep-count --keep-id \
		--extra-keys "metadata.language_info.version" notebooks/*.ipynb

# python -m darts_lib.benchmark --json runs/benchmark.json
benchmark: $(INSTALLED)  ## plain against fused, predicted against measured: about a quarter of an hour on two cores
	@mkdir -p runs
	$(PY) -m darts_lib.benchmark --json runs/benchmark.json

# The paper's run, for a GPU. Stop it when you like: the same command goes on where it was.
# mkdir -p runs/cifar10
# papermill notebooks/03_search.ipynb runs/cifar10/03_search.ipynb \
#     -p scale paper -p dataset cifar10 -p epochs 50 -p run_dir "$PWD/runs/cifar10/search"
# papermill notebooks/04_genotype.ipynb runs/cifar10/04_genotype.ipynb \
#     -p scale paper -p run_dir "$PWD/runs/cifar10/search"
# papermill notebooks/05_retrain.ipynb runs/cifar10/05_retrain.ipynb \
#     -p scale paper -p epochs 600 -p genotype "$PWD/runs/cifar10/search" \
#     -p run_dir "$PWD/runs/cifar10/retrain"
cifar10: $(INSTALLED)  ## the paper's search and retraining on CIFAR-10, at full scale
	@mkdir -p "$(CIFAR10)"
	$(PAPERMILL) notebooks/03_search.ipynb "$(CIFAR10)/03_search.ipynb" \
		-p scale paper -p dataset cifar10 -p epochs 50 -p run_dir "$(CIFAR10)/search"
	$(PAPERMILL) notebooks/04_genotype.ipynb "$(CIFAR10)/04_genotype.ipynb" \
		-p scale paper -p run_dir "$(CIFAR10)/search"
	$(PAPERMILL) notebooks/05_retrain.ipynb "$(CIFAR10)/05_retrain.ipynb" \
		-p scale paper -p epochs 600 -p genotype "$(CIFAR10)/search" \
		-p run_dir "$(CIFAR10)/retrain"

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv *.egg-info build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find darts_lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) \
		-prune -exec rm -rf {} +

# --- the environment ----------------------------------------------------------------------------

# python3 -m venv .venv
# .venv/bin/pip install -e .
$(INSTALLED): $(PY) pyproject.toml
	$(PY) -m pip install --quiet --editable .
	@touch $@

# .venv/bin/pip install -e ".[sweep]"
$(INSTALLED_SWEEP): $(PY) pyproject.toml
	$(PY) -m pip install --quiet --editable ".[sweep]"
	@touch $@ $(INSTALLED)

# .venv/bin/pip install -e ".[dev]"
$(INSTALLED_DEV): $(PY) pyproject.toml
	$(PY) -m pip install --quiet --editable ".[dev]"
	@touch $@ $(INSTALLED) $(INSTALLED_SWEEP)

$(PY):
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "$(PYTHON) is not found: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$("$(PYTHON)" --version) is too old: darts_lib needs 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
