# Commands for users, each making the environment it needs:
#   make demo    register the shipped example and draw it, offline
#   make test    style, types and the tests, but for those that are marked slow
#   make test-all  the slow ones too, with coverage: what continuous integration runs
#   make browser a Chromium, in which the tests open the report
#   make docs    the documentation site in site/, to be opened from the disk

VENV ?= .venv
# the pins in constraints.txt were resolved for Python 3.11, so it is tried first
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
DEMO_OUT ?= demo-output
JOBS ?= 2
# which build of PyTorch: without an NVIDIA GPU the CPU's, a tenth of the size; make TORCH=cuda, or TORCH=cpu, says otherwise
TORCH ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
TORCH_CPU_INDEX = https://download.pytorch.org/whl/cpu

BIN = $(VENV)/bin
KERNELS = src/deformgan/spatial/native/_kernels.so
AUDIT = $(VENV)-audit
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# pip's own sources, where an institution has configured some, are left to decide
SOURCES = $$(if [ "$(TORCH)" = cpu ] && ! $(BIN)/python -m pip config list | grep -E 'index-url|find-links' >/dev/null; then \
	echo "PyTorch: the CPU build (make TORCH=cuda for the other)" >&2; echo "--extra-index-url $(TORCH_CPU_INDEX)"; fi)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types unit coverage avx2 browser audit docs clean bench-speed bench-scaling bench-roofline torture

help:
	@echo "make demo   register the shipped example, offline; pictures go to $(DEMO_OUT)/"
	@echo "make test   style, types and the tests, but for those that are marked slow; some minutes"
	@echo "make test-all  style, types and every test, with coverage: what continuous integration runs"
	@echo "make avx2   the tests whose numbers depend on the processor once more, as on one without AVX-512"
	@echo "make TORCH=cuda …   PyTorch's CUDA build where no GPU is seen (TORCH=cpu: the CPU's where one is)"
	@echo "make browser  a Chromium for the report's tests, which are skipped without one"
	@echo "make bench-speed, bench-scaling, bench-roofline   time and memory, on a quiet machine; see benchmarks/"
	@echo "make docs   the documentation site: site/index.html"
	@echo "make audit  known vulnerabilities of the pinned dependencies (needs the network)"
	@echo "make clean  remove the environment and what the commands above wrote"

demo: $(VENV)/.stamp-demo $(KERNELS)
	$(BIN)/deformgan demo -o $(DEMO_OUT) --force

test: lint types unit

test-all: lint types coverage

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# one thread a worker: with more, the workers fight over the cores
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

unit: $(VENV)/.stamp-dev $(KERNELS)
	$(PYTEST) --durations 10 -m 'not slow'

coverage: $(VENV)/.stamp-dev $(KERNELS)
	$(PYTEST) --durations 10 --cov --cov-report term

# what most laptops have: AVX2 and nothing after it
avx2: $(VENV)/.stamp-dev $(KERNELS)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -q -m processor tests/networks tests/refine tests/test_pipeline.py

# the system's Chromium, which the tests look for first, else Playwright's own in the user's cache
browser: $(VENV)/.stamp-dev
	@for name in chromium chromium-browser google-chrome chrome; do \
		if command -v $$name; then exit 0; fi; done; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else $(BIN)/python -m playwright install chromium; fi

# asks the package index about every pin; in an environment of its own, so that it audits nothing of its own
audit: $(AUDIT)/.stamp
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

$(AUDIT)/.stamp: | $(BIN)/python
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --disable-pip-version-check --quiet pip-audit
	@touch $@

# each adds a file to benchmarks/TOPIC/results and replaces none
bench-speed bench-scaling bench-roofline: bench-%: $(VENV)/.stamp-dev
	$(BIN)/python benchmarks/$*/run.py
	$(BIN)/python benchmarks/page.py

# strict: a link that leads nowhere, or a page that is in no menu, is an error
torture: $(VENV)/.stamp-dev $(KERNELS) ## Kill commands at 200 random moments and look at what is left
	$(BIN)/python tests/torture 200

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean --quiet

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# pip builds them too; here they follow their sources. Without a compiler PyTorch is used
$(KERNELS): $(wildcard src/deformgan/spatial/native/c/*) src/deformgan/spatial/native/build.py
	-$(PYTHON) src/deformgan/spatial/native/build.py

$(VENV)/.stamp-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(SOURCES) -e .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(SOURCES) -e '.[dev]'
	@touch $@ $(VENV)/.stamp-demo

$(VENV)/.stamp-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) $(SOURCES) -e '.[docs]'
	@touch $@ $(VENV)/.stamp-demo

clean:
	rm -rf $(VENV) $(AUDIT) site $(DEMO_OUT) .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
