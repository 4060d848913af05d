# The front door. Every target prepares what it needs in .venv first; nothing is installed outside this folder.
.PHONY: demo test lint check bench format clean
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
ROOMS := cli client discovery gossip membership ring sidecar simulations

help:  ## what can be asked of this Makefile
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## three workers, three sidecars, a caller; a kill, a freeze, a restart, a drain (under a minute)
	@$(BIN)/rumormill demo

test: .venv/dev-ready  ## every test that finishes in minutes
	$(BIN)/pytest -m "not slow"

lint: .venv/dev-ready  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=.venv/rooms $(BIN)/mypy $(ROOMS:%=-p rumormill.%)

check: lint test  ## lint and test

bench: .venv/dev-ready  ## the figures of docs/benchmarks.md, from this machine
	$(BIN)/python -m bench

format: .venv/dev-ready  ## rewrite the sources the way `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what these targets made
	rm -rf .venv build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "rumormill needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv > .venv.log 2>&1 || { rm -rf .venv; cat .venv.log; rm -f .venv.log; \
	  echo "Python's venv module is not complete here. Install it and try again:"; \
	  echo "  apt-get install -y python3-venv"; exit 1; }
	@rm -f .venv.log

# The stamp is newer than pyproject.toml when the packages are in place.
.venv/ready: pyproject.toml | .venv/bin/python
	@echo "Preparing .venv (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# mypy reads the rooms under their full names through one link, so a plain checkout is enough to check types.
.venv/dev-ready: pyproject.toml | .venv/bin/python
	@echo "Preparing .venv with the development tools (once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@mkdir -p .venv/rooms && ln -sfn ../.. .venv/rooms/rumormill
	@touch .venv/ready $@
