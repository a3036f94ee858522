# Every target does its own set-up: `make demo` or `make test` is all that has to be typed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NATIVE := $(shell find runtime/native -type f -not -name '*.py' -not -name '*.pyc')
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install test lint demo clean

install: $(STAMP)

test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

demo: $(STAMP)
	$(BIN)/python examples/demo.py

clean:
	rm -rf build demo .pytest_cache .mypy_cache .ruff_cache
	@echo "$(VENV) is kept; for a fresh start: rm -rf $(VENV)"

# The install is editable, so that sources take effect as they are edited; only what this stamp
# depends on needs another install. cmake and ninja come as packages, under the same constraints.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt nmcompile/__init__.py $(NATIVE) | $(BIN)/python
	@command -v $(firstword $(CXX)) >/dev/null || \
	  { echo "make install: no C++ compiler $(CXX); on Debian: apt install g++" >&2; exit 1; }
	@echo "installing nmcompile into $(VENV); the first time this takes minutes"
	$(PIP) install --quiet --constraint constraints.txt scikit-build-core cmake ninja
	@headers=$$(runtime/native/ort/find_headers.sh build/onnxruntime) || true; set -x; \
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,peers]' \
	  $${headers:+-C cmake.define.ONNXRUNTIME_INCLUDE_DIR=$$headers}
	@mkdir -p .mypy/nmcompile
	@ln -sfn ../../passes .mypy/nmcompile/passes
	@ln -sfn ../../runtime .mypy/nmcompile/runtime
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make install: needs Python 3.11 or newer, as in: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "make install: $(PYTHON) cannot make environments; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
