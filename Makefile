# Each target makes .venv on first use. On Windows use the pip and python -m lines of the README.
#   LOCKED=1   install the exact versions of the last full run (constraints.txt)
#   TORCH=cpu  install torch's CPU build (200 MB instead of 5 GB)
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/report$(if $(LOCKED),-locked)
VERSIONS := $(if $(LOCKED),--constraint constraints.txt)
CPU := --index-url https://download.pytorch.org/whl/cpu
OR_SAY := || { echo "make: not installed (pip says why, above). Is the network there? Then run make again."; exit 1; }

.PHONY: help report report-all pdf address test oldest lint format bench check-resume mutate lab clean

help:
	@echo "make report        run the five notebooks, write docs/"
	@echo "make report-all    the same with the extra chapters"
	@echo "make pdf           all pages in one file, build/report.pdf"
	@echo "make address       write your copy's address into notebooks and README"
	@echo "make lab           open the notebooks"
	@echo "make test          run the tests        make lint    check code style"
	@echo "make format        tidy the code        make bench   measure the speed"
	@echo "make check-resume  kill runs a hundred times and compare what comes back"
	@echo "make mutate        break the code in many places and see whether a test falls"
	@echo "make clean         remove what building left (data/, outputs/ and docs/ stay)"

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} is too old: this course needs 3.11 or newer; install it and run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(if $(filter cpu,$(TORCH)),$(PY) -m pip install --quiet torch torchvision $(VERSIONS) $(CPU) $(OR_SAY))
	$(PY) -m pip install --quiet --requirement requirements.txt $(VERSIONS) $(OR_SAY)
	@touch $@

.venv/dev: $(READY) requirements-dev.txt
	$(PY) -m pip install --quiet --requirement requirements-dev.txt $(OR_SAY)
	@touch $@

report: $(READY)
	$(PY) -m report

report-all: $(READY)
	$(PY) -m report --all

pdf: .venv/dev
	$(PY) -m report.pdf

address: $(READY)
	$(PY) -m report.address $(URL)

test: .venv/dev
	$(PY) -m pytest

# The fast tests with the lowest versions that requirements.txt allows, torch apart.
oldest:
	$(PYTHON) -m venv build/oldest
	sed '/^torch\(vision\)*>/!s/>=/==/' requirements.txt > build/oldest/requirements.txt
	build/oldest/bin/python -m pip install --quiet -r build/oldest/requirements.txt pytest pytest-xdist
	build/oldest/bin/python -m pytest tests/test_data.py tests/test_vae_utils.py tests/test_training.py tests/test_cli.py

lint: .venv/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The notebooks without outputs, and without what an editor notes in cells.
CLEAR := --clear-output --inplace --ClearMetadataPreprocessor.enabled=True \
	--ClearMetadataPreprocessor.clear_notebook_metadata=False \
	--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags \
	--ClearMetadataPreprocessor.preserve_cell_metadata_mask=jupyter \
	--ClearMetadataPreprocessor.preserve_cell_metadata_mask=cellView

format: .venv/dev
	$(PY) -m nbconvert --log-level WARN $(CLEAR) notebooks/*.ipynb
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(READY)
	$(PY) benchmarks/bench.py

check-resume: .venv/dev
	$(PY) tests/kill_check.py

mutate: .venv/dev
	$(PY) tests/mutate.py

lab: .venv/dev
	$(PY) -m jupyterlab notebooks

clean:
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
