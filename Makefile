# `make` alone lists what there is. The first run of demo, test, check or bench makes .venv.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test check bench docs clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: $(READY) ## embed a real slide and draw it (network once, for the slide)
	$(BIN)/wsi-umedpt demo -o demo-out

test: $(READY) ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile
	cd plugins/napari-wsi-umedpt && ../../$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd plugins/napari-wsi-umedpt && ../../$(BIN)/mypy
	$(BIN)/npe2 validate --imports napari-wsi-umedpt
	$(BIN)/lint-imports

bench: $(READY) ## measure every figure of docs/speed.md (about 10 minutes)
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/speed.py

docs: $(READY) ## the pictures in docs/
	$(BIN)/python docs/make_pictures.py

clean: ## remove the environment and all that was made
	rm -rf .venv demo-out examples/out benchmarks/data .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml plugins/napari-wsi-umedpt/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	sh tools/qt_libs.sh
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed \
		-e '.[dev]' -e 'plugins/napari-wsi-umedpt[qt]'
	touch $(READY)
