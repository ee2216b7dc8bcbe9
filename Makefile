# make book   - set up if needed, build the book, say where to open it
# make test   - set up if needed, then everything: unit tests, notebooks, book, pages in a browser
# make check  - the inner loop: lint, types, fast tests
# make notebooks [ONLY="05_identity"] [FORCE=1] - sources -> executed notebooks, the only way
# make portable - notebooks under other thread counts and instruction sets, and from the wheel alone

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: help setup book test check format notebooks portable clean

help:  ## this text
	@sed -n '1,5s/^# //p' Makefile

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[book,test,full,dev]"
	touch $(STAMP)

setup: $(STAMP)  ## the environment

book: $(STAMP)  ## the book, warnings are errors
	$(BIN)/jupyter-book build book/ -W -n --keep-going
	@echo "Open file://$(CURDIR)/book/_build/html/index.html"

check: $(STAMP)  ## the inner loop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m tools.notebooks check
	$(BIN)/pytest -q -n 2 -m "not slow"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(STAMP)
	$(BIN)/python -m tools.notebooks build $(if $(ONLY),--only $(ONLY)) $(if $(FORCE),--force)

portable: $(STAMP)
	$(BIN)/python -m tools.portable

# The three stages print their own results; the summary of pytest is the last line of each.
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/jupyter-book build book/ -W -n --keep-going
	$(BIN)/python -m tools.check_pages
	$(BIN)/pytest -q -n 2 --dist loadfile --nbval tests notebooks

clean:
	rm -rf book/_build build dist .pytest_cache .ruff_cache
