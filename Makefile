# Everything runs in .venv, which each target installs as far as it needs.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint types bench clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: .venv/demo ## See the method at work: installs, then writes relook-demo/index.html
	$(BIN)/relook demo

test: .venv/test ## Install what the tests need and run them
	$(BIN)/python -m pytest

slow: .venv/test ## Run the slow tests, which make test leaves out
	$(BIN)/python -m pytest -m slow

lint: .venv/dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## Check the type hints
	$(BIN)/mypy

bench: .venv/dev ## Print the numbers of the README (about 20 minutes)
	$(BIN)/python benchmarks/one_photo.py
	$(BIN)/python benchmarks/scorecam.py --json benchmarks/results/scorecam.json

clean: ## Remove the environment and what the targets made
	rm -rf .venv relook-demo

.venv/demo .venv/test .venv/dev: .venv/%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@
