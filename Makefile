# Each target sets up what it needs by itself: `make demo` and `make test` work right after `git clone`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOSTS_NEED := iproute2 openssh-client openssh-server procps rsync util-linux

.PHONY: demo test test-cluster test-faults bench lint format docs clean

demo: $(VENV)/installed-semantics
	$(BIN)/python jobs/transfer_sweep.py studies/demo.yaml
	$(BIN)/python jobs/complementarity.py studies/demo.yaml
	$(BIN)/python analysis/success_rate.py results/demo
	$(BIN)/python analysis/complementarity.py results/demo

test: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest

# Three hosts made of namespaces: needs root on Linux, and skips where it may not make any.
test-cluster: $(VENV)/installed-dev
	dpkg --status $(HOSTS_NEED) >/dev/null 2>&1 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $(HOSTS_NEED); }
	$(BIN)/python -m pytest -m cluster

test-faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m faults

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/torchdistill_trial.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/complementarity.py
	$(BIN)/python benchmarks/atlas_growth.py
	$(BIN)/python benchmarks/scale.py

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

$(VENV)/installed-semantics: requirements-semantics.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-semantics.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed-semantics
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

# Without its dependencies, all of which are there or not needed: nothing pinned may change for a benchmark.
$(VENV)/installed-bench: requirements-bench.txt $(VENV)/installed-dev
	$(BIN)/pip install --quiet --no-deps -r requirements-bench.txt
	touch $@

clean:
	rm -rf $(VENV) data zoo outputs results
