# Everything runs inside .venv, which `make venv` builds; nothing is installed outside it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
EXTRAS := all,dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: venv demo test test-slow test-lowest fuzz check bench docs parity dist licenses web clean

venv: .venv/installed

# torch goes first: held by the constraints, nothing after it pulls in another build.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distilpose needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: venv  ## distil a small student on drawn people and predict on a photograph (no downloads)
	$(BIN)/python examples/demo.py --out demo

test: venv  ## the fast tests
	$(BIN)/python -m pytest -n 2 --ignore tests/export
	$(BIN)/python -m pytest -n 2 tests/export  # apart: in a process that ran the other tests before, a child process of these crashes Python

fuzz: venv  ## changed files and requests: nothing crashes, no good input is lost
	$(BIN)/python tools/fuzz.py

test-slow: venv  ## the long tests
	$(BIN)/python -m pytest -m slow

test-lowest:  ## tests of values with the lowest versions of pyproject.toml, in .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt torch
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[train,video,interop,serve]" pytest pytest-timeout hypothesis pycocotools
	.venv-lowest/bin/python -m pytest tests/data tests/geometry tests/evaluation tests/formats tests/inference tests/video

check: venv docs  ## style and types, and the site builds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv  ## speed of the shipped model on this machine, beside its matrix-product peak
	$(BIN)/distilpose benchmark

docs: venv  ## the site of the docs in site/, without network; a dead link or a missing reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

parity: venv  ## the table of docs/parity.md, measured again
	$(BIN)/python tools/parity_table.py docs/parity.md

dist: venv  ## wheel and sdist in dist/: checked, installed into an empty environment, a photograph predicted
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/check_dist.py dist

licenses: venv  ## the table of docs/licenses.md
	$(BIN)/python tools/list_licenses.py docs/licenses.md

web: venv  ## the browser page: ONNX Runtime Web from npm, the shipped student as ONNX
	@command -v npm >/dev/null || { echo "make web needs Node.js with npm: apt-get install nodejs npm" >&2; exit 1; }
	npm ci --prefix web --ignore-scripts --no-audit --no-fund
	$(BIN)/distilpose web

clean:
	rm -rf .venv .venv-lowest demo site dist
