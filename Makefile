# Every target makes the virtual environment that it needs; nothing has to be installed by hand but Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-all lint bench clean

demo: $(INSTALLED)  ## train a small language model, put every method in, write results/demo/compare.html
	$(BIN)/softmaxkit compare --output results/demo

test: $(INSTALLED) lint  ## the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: test  ## the slow ones too, one at a time
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED)  ## speed, as ratios taken side by side
	$(BIN)/softmaxkit bench
	$(BIN)/python benchmarks/integer_mode.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[hardware,test]'
	touch $@

clean:
	rm -rf .venv results/demo softmaxkit-compare softmaxkit-study softmaxkit-tasks
