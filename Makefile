# Everything starts here, CI included. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COLAB := us-docker.pkg.dev/colab-images/public/runtime
OMP_NUM_THREADS ?= 1
MPLBACKEND ?= Agg
export OMP_NUM_THREADS MPLBACKEND

.PHONY: help setup book test check unit crash mutants lowest format notebooks portable colab clean pdf

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[book,test,full,weights,export,dev]"
	touch $(STAMP)

setup: $(STAMP)  ## .venv with the tested versions; every target below starts with it

book: $(STAMP)  ## the book, warnings are errors; prints where to open it
	$(BIN)/jupyter-book build book/ -W -n --keep-going
	@echo "Open file://$(CURDIR)/book/_build/html/index.html"

pdf: $(STAMP)  ## the book as one PDF, printed by Chromium from the pages that `make book` builds
	$(BIN)/python -m tools.pdf

check: $(STAMP)  ## the inner loop: lint, types, conventions, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m tools.notebooks check
	$(BIN)/pytest -q -n 2 -m "not slow"

unit: $(STAMP)  ## all tests of the library, slow ones too; no notebook, no page
	$(BIN)/pytest -q -n 2 --dist loadfile tests

# uv finds the lowest set of versions that the bounds in pyproject.toml allow; pip installs it.
lowest: $(STAMP)  ## the fast tests at the lowest declared versions, in .venv-lowest
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(BIN)/uv pip compile -q --resolution lowest-direct --no-annotate --python .venv-lowest/bin/python \
		--extra test --extra weights pyproject.toml -o .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install -q --no-deps -e .
	.venv-lowest/bin/python -m pytest -q -n 2 -m "not slow" tests

# Each command is killed and refused at every operation on files, and goes on: an hour.
crash: $(STAMP)  ## the crash tests in full; `make unit` has a sample of them
	CRASH=all $(BIN)/pytest -q -n 2 tests/test_crash.py

mutants: $(STAMP)  ## [MODULES="paths losses"] small bugs, one at a time: which do the tests not notice?
	$(BIN)/python -m pip install -q cosmic-ray coverage
	$(BIN)/python -m tools.mutants run $(MODULES)

format: $(STAMP)  ## formats the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(STAMP)  ## [ONLY=06_identity] [FORCE=1] executes the sources that changed
	$(BIN)/python -m tools.notebooks build $(if $(ONLY),--only $(ONLY)) $(if $(FORCE),--force)

portable: $(STAMP)  ## notebooks under other threads and instruction sets, and from the wheel alone
	$(BIN)/python -m tools.portable

# In Colab's own image (docker), from the wheel alone; the image's torch must stay.
colab:  ## notebooks inside the image that Colab runs
	docker pull -q $(COLAB)
	docker run --rm --volume "$(CURDIR):/source:ro" --entrypoint /bin/bash $(COLAB) -euc \
		"cp -r /source /repository && cd /repository && python3 -m tools.portable --here"

# Each stage prints its own result; pytest's summary is the last line.
test: $(STAMP)  ## everything: lint, types, the book, its pages in a browser, tests, notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/jupyter-book build book/ -W -n --keep-going
	$(BIN)/python -m tools.check_pages
	$(BIN)/pytest -q -n 2 --dist loadfile --nbval tests notebooks

clean:  ## removes what was built; keeps .venv
	rm -rf book/_build build dist .pytest_cache .ruff_cache
