# `make` alone lists what there is. The first run of demo, test, check, docs or bench makes .venv.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
# Versions that were tested together, where they were written for this Python and system: see tools/lock.py.
LOCK ?= tools/constraints/$(shell $(PYTHON) -c \
	'import sys, sysconfig; print("cp%d%d-%s.txt" % (*sys.version_info[:2], sysconfig.get_platform()))' 2>/dev/null)
PACKAGES := -e . --group dev -e 'plugins/napari-wsi-umedpt[qt]' --group plugins/napari-wsi-umedpt/pyproject.toml:test
BUILD := 'pip>=25.1' 'hatchling>=1.27' 'hatch-vcs>=0.5' 'editables>=0.5'

.PHONY: help demo test check docs pictures bench lock clean

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: $(READY) ## embed a real slide and draw it (network once, for the slide)
	$(BIN)/wsi-umedpt demo -o demo-out

test: $(READY) ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0
	cd plugins/napari-wsi-umedpt && ../../$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

check: $(READY) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd plugins/napari-wsi-umedpt && ../../$(BIN)/mypy
	$(BIN)/npe2 validate --imports napari-wsi-umedpt
	$(BIN)/lint-imports

docs: $(READY) ## the site, in build/site; its tutorials run
	$(BIN)/mkdocs build

pictures: $(READY) ## the pictures of the demo in docs/
	$(BIN)/python docs/make_pictures.py

bench: $(READY) ## measure every figure of docs/measured/speed.md (about 10 minutes)
	$(BIN)/python -m benchmarks.speed.encoders
	$(BIN)/python -m benchmarks.speed.embedding

lock: $(READY) ## let pip choose versions anew, and write them to tools/constraints/
	$(BIN)/python tools/lock.py $(LOCK) $(BUILD) $(PACKAGES)

clean: ## remove the environment and all that was made
	rm -rf .venv build demo-out examples/out benchmarks/data .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml plugins/napari-wsi-umedpt/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found"; exit 1; }
	sh tools/qt_libs.sh
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(addprefix -c ,$(wildcard $(LOCK))) $(BUILD)
	$(BIN)/python -m pip install --quiet $(addprefix -c ,$(wildcard $(LOCK))) --no-build-isolation $(PACKAGES)
	touch $(READY)
