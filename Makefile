# Each target makes .venv on first use. On Windows use the pip and python -m lines of the README.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: help report report-all test lint format bench lab clean

help:
	@echo "make report      run the five notebooks, write docs/"
	@echo "make report-all  the same with the extra chapters"
	@echo "make test        run the tests        make lint   check code style"
	@echo "make format      tidy the code        make lab    open the notebooks"
	@echo "make bench       measure the speed"
	@echo "make clean       remove what building left (data/, outputs/ and docs/ stay)"

.venv/report: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} is too old: this course needs 3.11 or newer; install it and run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/dev: .venv/report requirements-dev.txt
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

report: .venv/report
	$(PY) -m report

report-all: .venv/report
	$(PY) -m report --all

test: .venv/dev
	$(PY) -m pytest

lint: .venv/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The notebooks without outputs, and without what an editor notes in cells.
CLEAR := --clear-output --inplace --ClearMetadataPreprocessor.enabled=True \
	--ClearMetadataPreprocessor.clear_notebook_metadata=False \
	--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags

format: .venv/dev
	$(PY) -m nbconvert --log-level WARN $(CLEAR) notebooks/*.ipynb
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: .venv/report
	$(PY) benchmarks/bench.py

lab: .venv/dev
	$(PY) -m jupyterlab notebooks

clean:
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +
