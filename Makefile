# `make demo` and `make test` need only Python >= 3.10 and make; each sets up its own environment first.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo-output
bin := $(VENV)/bin

.PHONY: demo test lint clean help

help:
	@echo "make demo   portraits in, novel views and a video out (into $(OUTPUT)/)"
	@echo "make test   all tests"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove the environment and the demo's output"

demo: $(VENV)/.installed
	$(bin)/python benchmarks/demo_portraits.py $(OUTPUT)/portraits $(OUTPUT)/truth
	$(bin)/dp3d run $(OUTPUT)/portraits -o $(OUTPUT) --gt $(OUTPUT)/truth
	@echo
	@echo "Videos:         $(OUTPUT)/video/*.mp4"
	@echo "Contact sheets: $(OUTPUT)/views/*/contact_sheet.png"
	@echo "Report:         $(OUTPUT)/report/report.html"

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n auto --dist loadfile

lint: $(VENV)/.installed-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

clean:
	rm -rf $(VENV) $(OUTPUT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(bin)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(bin)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed
