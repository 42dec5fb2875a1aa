# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install first; only Python 3.10+ is needed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo lint test clean

help:
	@echo 'make demo     install, then run the whole job on made data: at most 6 minutes on 2 cores'
	@echo 'make test     install, then linters, types, import arrows and tests'
	@echo 'make install  only make .venv'
	@echo 'make clean    remove .venv and caches'

install: $(INSTALLED)

# torch and torchvision come in one pip call, so that they fit each other.
# On machines without X libraries (libGL), cv2 cannot be imported: the headless build of the same version takes its place.
$(INSTALLED): setup.cfg
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or later is needed; got " + sys.version.split()[0] + ". Name one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip >= 22'
	$(BIN)/python -m pip install -e '.[dev]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  version=$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))') && \
	  echo "cv2 cannot be imported here (no X libraries): installing opencv-python-headless $$version over it" && \
	  $(BIN)/python -m pip install --no-deps --force-reinstall "opencv-python-headless==$$version" && \
	  $(BIN)/python -c 'import cv2'; }
	@touch $@

demo: $(INSTALLED)
	$(BIN)/toolchain demo

lint: $(INSTALLED)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy -p toolchain
	@found=$$($(BIN)/lint-imports 2>&1) || { echo "$$found"; exit 1; }
	$(BIN)/vermin -q -t=3.6- --no-tips --violations toolchain/agent toolchain/device/bundle_files

# A few threads are enough for tiny networks; on many cores more would only wait for each other.
test: export OMP_NUM_THREADS ?= 2
test: lint
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
