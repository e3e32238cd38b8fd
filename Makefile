# Everything a person does with a checkout. `make` alone lists it.

PYTHON ?= python3.11
ARGS ?=

# The environment is brought up to date where its description, or the checkout's place, changed:
# the name of the stamp says what it was made from, whatever the clock says.
DESCRIPTION := pyproject.toml constraints.txt scripts/setup.sh
STAMP := .venv/setup-$(shell { pwd; cat $(DESCRIPTION); } | sha256sum | cut -c 1-16)
BIN := .venv/bin
# Folders that are packages of palquant; see [tool.setuptools.package-dir] in pyproject.toml.
PACKAGES := golden hw sim sw

.DEFAULT_GOAL := help
.PHONY: help setup run bench test lint style types format docs docs-check constraints clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with all tools (the other targets do this themselves)

$(STAMP):
	PYTHON=$(PYTHON) scripts/setup.sh
	rm -f .venv/setup-*
	touch $@

run: $(STAMP) ## Train, compile, simulate the RTL and compare every value, end to end
	$(BIN)/python -m palquant.demo $(ARGS)

bench: $(STAMP) ## Measure ResNet-18, the speed-up over 4 bits, growth with the image, accuracy
	for name in resnet18 speedup growth accuracy; do \
		$(BIN)/palquant bench $$name --json build/bench/$$name.json \
			--plot build/bench/$$name.svg || exit 1; done

test: $(STAMP) ## Run all tests on two cores; ARGS="-k mac" runs some
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: style types ## Check style, format and types

style: $(STAMP) ## Check style and format only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow setuptools' package-dir, but it follows links.
types: $(STAMP) ## Check types only
	rm -rf build/types
	mkdir -p build/types/palquant
	ln -s $(CURDIR)/palquant/* $(addprefix $(CURDIR)/,$(PACKAGES)) build/types/palquant
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy scripts/*.py

format: $(STAMP) ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write the generated tables of docs/ anew
	$(BIN)/python scripts/docs_tables.py

docs-check: $(STAMP) ## Check the generated tables, links and file names in docs/
	$(BIN)/python -m pytest -q tests/test_docs.py

constraints: $(STAMP) ## Write constraints.txt from the versions in .venv
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip list --format=freeze \
		--exclude palquant --exclude pip | sed 's/+.*//'; } > constraints.new
	mv constraints.new constraints.txt

clean: ## Remove everything that was made, but .venv
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis results.xml
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
