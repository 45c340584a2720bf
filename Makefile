# Set-up and checks. Each target builds .venv from constraints.txt when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH ?= torch==2.13.0
SUITE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal
# What switches off a processor's extras. It was checked, by digests of results, what each one acts
# on: ATEN_CPU_CAPABILITY: torch's own kernels and normal draws. ONEDNN_MAX_CPU_ISA: convolutions,
# GELU and bfloat16 products. MKL_CBWR: torch's matrix products and LAPACK, on Intel and AMD.
# MKL_ENABLE_INSTRUCTIONS: the same on Intel; nothing on AMD. OPENBLAS_CORETYPE: numpy's, scipy's
# and faiss's products. NPY_DISABLE_CPU_FEATURES: numpy's exp and log. None was tried on 64-bit
# Arm.
PORTABLE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem \
	NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
export TOKENIZERS_PARALLELISM = true

.PHONY: help install demo demo-audio demo-vision tables relabel test test-portable test-newest test-lowest test-slow test-browser test-torchaudio test-openai2 test-adapters test-servers test-ray check fix bench clean
help:           ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

.venv/.python:
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	@touch $@

.venv/.demo: .venv/.python pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	@touch $@

.venv/.dev: .venv/.demo pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@

install: .venv/.dev     ## editable install with everything that the tests need

demo: .venv/.demo       ## Banking-77 on MiniLM: features, kNN table, neighbours (FULL=1: no subset)
	$(BIN)/python -m recipes.demo $(if $(FULL),--full)

demo-audio: .venv/.dev  ## spoken digits on any audio encoder: make demo-audio MODEL=id-or-folder
	$(BIN)/python -m recipes.demo_audio --model $(MODEL)

demo-vision: .venv/.dev ## tiles of photographs on any image encoder: make demo-vision MODEL=id-or-folder
	$(BIN)/python -m recipes.demo_vision --model $(MODEL)

tables: .venv/.dev      ## rebuild the tables of README.md, docs and recipes/ABLATIONS.md from results
	$(BIN)/python -m recipes.table

relabel: .venv/.dev     ## rename recorded results after a change of fingerprints: WHISPER=id-or-folder
	$(BIN)/python -m recipes.relabel --whisper $(WHISPER)

check: .venv/.dev       ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

fix: .venv/.dev         ## format and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check             ## the default suite, offline
	$(SUITE)

test-portable: .venv/.dev ## the default suite without the processor's extras
	$(PORTABLE) $(SUITE)

test-slow: .venv/.dev   ## real weights and long runs
	$(BIN)/python -m pytest -q -m slow

test-newest: test       ## the same: constraints.txt pins the newest versions

test-lowest: .venv-lowest/.dev ## the default suite with the lowest supported versions
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -n 2 --dist worksteal

.venv-lowest/.dev: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt $(TORCH)
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt -e '.[dev]'
	@touch $@

test-browser: .venv/.dev ## the report in headless Chromium, which must be installed
	$(BIN)/python -m pytest -q -rs -m slow tests/evaluation/test_browser.py

test-torchaudio:        ## parity of the front-end, in an environment of its own (several GB)
	$(PYTHON) -m venv .venv-torchaudio
	.venv-torchaudio/bin/pip install -q torch==2.14.1 torchaudio==2.11.0 -e '.[audio]' pytest
	.venv-torchaudio/bin/python -m pytest -q -m torchaudio tests/encoders/test_torchaudio_parity.py

test-openai2:           ## the chat client against openai 2, in an environment of its own
	$(PYTHON) -m venv .venv-openai2
	.venv-openai2/bin/pip install -q 'openai<3' numpy pyarrow pytest
	PYTHONPATH=. .venv-openai2/bin/python -m pytest -q -p tests.icl.bare --noconftest \
		$(foreach name,chat chat_faults chat_settings fake_server evaluate run_folder resume limits cache,tests/icl/test_$(name).py)

test-servers: .venv-servers/.done ## the chat client against servers of other authors
	.venv-servers/bin/python -m pytest -q -p no:llmock -m servers tests/servers

.venv-servers/.done: pyproject.toml constraints-servers.txt
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet -c constraints-servers.txt $(TORCH)
	.venv-servers/bin/python -m pip install --quiet -c constraints-servers.txt -e '.[icl]' \
		'transformers[serving]' 'litellm[proxy]' llmock pytest
	@touch $@

test-ray: .venv-ray/.done ## Ray on this machine, and the recipes for Dask and Spark
	.venv-ray/bin/python -m pytest -q -m ray tests/ray

.venv-ray/.done: pyproject.toml constraints-ray.txt
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet -c constraints-ray.txt $(TORCH)
	.venv-ray/bin/python -m pip install --quiet -c constraints-ray.txt -e '.[ray,demo]' \
		dask pyspark hypothesis pytest
	@touch $@

test-adapters: .venv-adapters/.done ## the adapters inside LangChain, LlamaIndex, DSPy and lm-eval
	.venv-adapters/bin/python -m pytest -q -m adapters tests/adapters

.venv-adapters/.done: pyproject.toml constraints-adapters.txt
	$(PYTHON) -m venv .venv-adapters
	.venv-adapters/bin/python -m pip install --quiet -c constraints-adapters.txt $(TORCH)
	.venv-adapters/bin/python -m pip install --quiet -c constraints-adapters.txt -e \
		'.[icl,langchain,llama-index,dspy,lm-eval,demo]' hypothesis pytest
	@touch $@

bench: .venv/.dev       ## every speed and memory claim; JSON into benchmarks/results
	$(BIN)/python -m benchmarks.run

clean:                  ## remove the environment
	rm -rf .venv
