# Set-up needs python3.11, its pip and make; nothing else, no root. It runs once per change of a lock file.

SHELL := /bin/sh
VENV := .venv
# The system's: with .venv/bin on the PATH, its own python would be found, which has no pip.
PYTHON ?= $(shell PATH="$$(printf %s "$$PATH" | tr ':' '\n' | grep -vxF '$(abspath $(VENV))/bin' | paste -sd: -)"; \
	command -v python3.11 || command -v python3)
RUN := $(VENV)/bin/python
LOCK := deploy/lock
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
SEED ?= 1
ONLY ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-netns up test check bench sim soak fuzz golden lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- set-up ---------------------------------------------------------------------------------------------------
# Debian's `python3 -m venv` may lack ensurepip, so the system's pip installs into the venv from outside.
# The project itself is a path entry, its metadata and a launcher: no build, no build requirements.

define launcher
#!/bin/sh
exec "$(abspath $(VENV))/bin/python" -P -m shared.cli "$$@"
endef
define metadata
Metadata-Version: 2.1
Name: zonal
Version: $(VERSION)
endef
export launcher metadata

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "zonal needs python 3.11 or later")'
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.project: Makefile pyproject.toml | $(RUN)
	@site="$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && pwd > "$$site/zonal-project.pth" \
		&& rm -rf "$$site"/zonal-*.dist-info && mkdir "$$site/zonal-$(VERSION).dist-info" \
		&& printf '%s\n' "$$metadata" > "$$site/zonal-$(VERSION).dist-info/METADATA"
	@rm -f $(VENV)/bin/zonal && printf '%s\n' "$$launcher" > $(VENV)/bin/zonal && chmod +x $(VENV)/bin/zonal
	@touch $@

$(VENV)/.runtime: $(LOCK)/runtime.txt | $(RUN)
	$(PYTHON) -m pip --python $(RUN) --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@

$(VENV)/.dev: $(LOCK)/dev.txt | $(RUN)
	$(PYTHON) -m pip --python $(RUN) --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev $(VENV)/.project ## install everything into .venv, run nothing

# --- running --------------------------------------------------------------------------------------------------

demo: $(VENV)/.runtime $(VENV)/.project ## one command, two zones: the story, every step checked
	@$(VENV)/bin/zonal demo $(ARGS)

demo-netns: $(VENV)/.runtime $(VENV)/.project ## the same in network namespaces, with the real VIP range (root)
	@$(VENV)/bin/zonal demo --netns $(ARGS)

up: $(VENV)/.runtime $(VENV)/.project ## start the demo's system and keep it running for play
	@$(VENV)/bin/zonal up $(ARGS)

# --- proving --------------------------------------------------------------------------------------------------

test: $(VENV)/.dev $(VENV)/.project ## the whole test suite
	@$(RUN) -m pytest -n 2 --dist loadfile $(ARGS) || { \
		echo "--- what failed is run once more, alone: whole systems with many Envoys share these processors ---"; \
		$(RUN) -m pytest -n 0 --last-failed --last-failed-no-failures none $(ARGS); }

check: $(VENV)/.dev $(VENV)/.project ## ruff, mypy --strict, import contracts, requirements, house rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/deptry .
	$(RUN) -m pytest -q tests/test_house.py

bench: $(VENV)/.dev $(VENV)/.project ## measure, and write bench.json (ONLY=a,b for some)
	$(VENV)/bin/zonal bench $(if $(ONLY),--only $(ONLY)) $(ARGS)

sim: $(VENV)/.dev $(VENV)/.project ## the seeded simulation (SEED=n)
	$(RUN) -m tests.sim --seed $(SEED) $(ARGS)

soak: ## run for hours under load (not built yet)
	@echo "make soak is not built yet" >&2; exit 2

fuzz: ## feed the parsers garbage (not built yet)
	@echo "make fuzz is not built yet" >&2; exit 2

golden: $(VENV)/.dev $(VENV)/.project ## write the golden scenarios anew
	ZONAL_UPDATE_GOLDEN=1 $(RUN) -m pytest -q tests/scenarios $(ARGS)

# --- keeping house --------------------------------------------------------------------------------------------

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

lock: $(VENV)/.dev ## resolve the requirements anew into deploy/lock (UPGRADE=1 for newer versions)
	$(COMPILE) $(if $(UPGRADE),--upgrade) -o $(LOCK)/runtime.txt pyproject.toml
	$(COMPILE) $(if $(UPGRADE),--upgrade) -o $(LOCK)/dev.txt -c $(LOCK)/runtime.txt pyproject.toml --group dev

clean: ## remove caches and results; .venv and .zonal (keys!) stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench.json dist build
	find global_cp zone_cp shared tests -name __pycache__ -type d -prune -exec rm -rf {} +
