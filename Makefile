# Each target sets up what it needs by itself: `make demo` and `make test` work right after `git clone`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= studies/demo.yaml
RESULTS ?= results/demo

.PHONY: demo test test-slow lint format docs clean

demo: $(VENV)/installed
	$(BIN)/python jobs/transfer_sweep.py $(STUDY)
	$(BIN)/python analysis/success_rate.py $(RESULTS)

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/python -m study.records > docs/records.md

# The system packages come first: FFCV compiles against some of them.
$(VENV)/installed: requirements.txt pyproject.toml setup.sh
	PYTHON=$(PYTHON) sh setup.sh $(VENV)
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) data zoo results
