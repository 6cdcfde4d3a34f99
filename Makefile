# Every target makes .venv itself; nothing else needs to be installed but Python 3.11 or newer and make.
.DEFAULT_GOAL := help
.PHONY: help demo quick test test-alone test-one-core soak fuzz coverage mutants bench day figures check fmt lock schema monitoring chart dist sbom pictures clean

# Candidates are run, not only looked up: a version manager's shim may stand on PATH without its Python.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Else each of the thousand programs that tests start compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# What is used is compiled at its first start; all of it would take half as long again.
PIP := $(BIN)/pip --quiet --disable-pip-version-check install --no-compile
count = $(shell grep -c == $(1))

# A dot every two seconds while the rest of the line works, terminal or not. It looks for the shell that waits: Ctrl-C ends
# that one, but no background job.
dots = { while sleep 2 > /dev/null 2>&1 && kill -0 $$$$ 2> /dev/null; do printf .; done & }; dots=$$!; \
	trap 'status=$$?; kill $$dots; echo; exit $$status' EXIT;

# A .venv that works is kept, with what else somebody installed there.
venv = $(BIN)/pip --version > /dev/null 2>&1 || { \
		test -n "$(PYTHON)" || { echo "knock-exporter needs Python 3.11 or newer; none was found on PATH (or name one: make PYTHON=/path/to/python3 …)"; exit 1; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }; \
		$(PYTHON) -m venv --clear .venv; }

.venv/run: requirements/run.txt
	@echo "Installing what runs the exporter into .venv, once: $(call count,$<) packages, 50 MB, half a minute"
	@$(dots) $(venv) && $(PIP) --require-hashes -r $<
	@touch $@

.venv/dev: requirements/dev.txt pyproject.toml .venv/run
	@echo "Installing the developers' tools into .venv, once: $(call count,$<) packages, 530 MB, some minutes"
	@$(dots) $(PIP) --require-hashes -r $< && $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/build: requirements/build.txt
	@echo "Installing what builds packages into .venv, once: $(call count,$<) packages"
	@$(dots) $(venv) && $(PIP) --require-hashes -r $<
	@touch $@

demo: .venv/run ## run the exporter on a simulated Knock, with things to look at
	@$(BIN)/python -m exporter demo $(DEMO_FLAGS) || { echo "The demo failed. Flags, such as another port: make demo DEMO_FLAGS=--web.listen-address=127.0.0.1:10287"; exit 1; }

# In the order of their names, end-to-end tests come first: short files fill up the end.
SIDE_BY_SIDE = --dist loadfile --no-loadscope-reorder -m 'not alone'

# Not what takes long and tests the whole: end-to-end tests, the machine, the requests that schemathesis makes up.
UNIT_TESTS = -q -n 3 $(SIDE_BY_SIDE) --ignore=tests/e2e --ignore=tests/machine --ignore=tests/test_openapi.py

quick: .venv/dev ## run the unit tests, in a minute or so
	$(BIN)/pytest $(UNIT_TESTS)

test: .venv/dev ## run all tests; says what it skipped because a tool is missing
	$(BIN)/pytest -n 4 $(SIDE_BY_SIDE)
	@$(MAKE) --no-print-directory -j 2 --output-sync=target test-alone test-one-core

# What waits for the most part, or needs one core, leaves one to what measures, and is over before it.
ALONE = $$(grep -rl --include='test_*.py' 'mark.alone' tests | sort)

test-alone:
	$(BIN)/pytest -m 'alone and not alone(one_core=True)' $(ALONE)

test-one-core:
	$(BIN)/pytest -m 'alone(one_core=True)' $(ALONE)

# The order of sets, by hash, is part of what a seed repeats.
soak: .venv/dev ## run random operations, faults and restarts against a model for an hour
	PYTHONHASHSEED=0 PYTHONPATH=tests/support $(BIN)/python tests/machine/soak.py $(SOAK_FLAGS)

fuzz: .venv/dev ## give a million random inputs to each parser of what comes from outside
	PYTHONPATH=tests/support $(BIN)/python tests/fuzz/fuzz.py $(FUZZ_FLAGS)

# Which test reaches which line, and how long each takes, is what `mutants` goes by.
.coverage-tests.xml: .venv/dev $(shell find exporter tests -name '*.py')
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(UNIT_TESTS) --junitxml=.coverage-tests.new
	$(BIN)/coverage combine --quiet
	@mv .coverage-tests.new $@

coverage: .coverage-tests.xml ## run the unit tests, and show which lines they do not reach
	$(BIN)/coverage report

mutants: .coverage-tests.xml ## change the code that decides in 1,000 places, and see whether tests notice
	$(BIN)/python tools/mutants.py $(MUTANTS_FLAGS)

bench: .venv/dev ## measure, and write one table of ratios (some minutes)
	@$(BIN)/python benchmarks $(BENCH_FLAGS)

day: .venv/dev ## run the shortened day of a very large customer, and draw docs/pictures/day.svg (twenty minutes)
	@PYTHONPATH=tests/support $(BIN)/python tools/day.py $(DAY_FLAGS)

figures: .venv/dev ## count what the architecture aims at, next to its goals
	@$(BIN)/python tools/figures.py $(FIGURES_FLAGS)

check: .venv/dev ## format, lint, types, layers, lock files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

fmt: .venv/dev ## format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Locks name packages, versions and hashes; never where they were fetched from.
COMPILE = env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null $(BIN)/pip-compile --quiet --strip-extras --generate-hashes \
	--allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header

lock: .venv/dev ## renew requirements/*.txt from pyproject.toml
	$(COMPILE) --upgrade --output-file requirements/run.txt pyproject.toml
	$(COMPILE) --upgrade --extra test --extra dev --constraint requirements/run.txt --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) --upgrade --extra test --constraint requirements/dev.txt --output-file requirements/test.txt pyproject.toml
	$(COMPILE) --upgrade --only-build-deps --build-deps-for wheel --constraint requirements/dev.txt --output-file requirements/build.txt pyproject.toml
	echo cyclonedx-bom | $(COMPILE) --upgrade --output-file requirements/sbom.txt -

schema: .venv/dev ## renew docs/config.schema.json from the settings and their document
	$(BIN)/python tools/config_schema.py > docs/config.schema.json.new && mv docs/config.schema.json.new docs/config.schema.json

monitoring: .venv/dev ## renew the rules and dashboards in monitoring/ from their sources
	$(BIN)/python monitoring/generate.py

chart: .venv/dev ## renew what is generated in helm/knock-exporter and deploy/kubernetes
	PYTHONPATH=monitoring $(BIN)/python helm/chart.py
	tests/e2e/get-helm
	$(BIN)/python helm/plain.py .tools/helm4/helm

SBOM := .tools/sbom

dist: .venv/build ## build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build

$(SBOM)/installed: requirements/sbom.txt .venv/build
	@echo "Installing what writes bills of materials into $(SBOM), once: $(call count,$<) packages"
	@$(BIN)/python -m venv --clear $(SBOM)
	@$(SBOM)/bin/pip --quiet --disable-pip-version-check install --no-compile --require-hashes -r $<
	@touch $@

# Of an environment with nothing but the wheel and its locked dependencies; pyproject.toml alone does not say the version.
sbom: dist $(SBOM)/installed ## list what the wheel is made of into dist/, as CycloneDX
	@echo "Installing the wheel and what it needs into $(SBOM)/wheel: $(call count,requirements/run.txt) packages"
	@$(BIN)/python -m venv --clear --without-pip $(SBOM)/wheel
	@$(BIN)/pip --python $(SBOM)/wheel --quiet --disable-pip-version-check install --no-compile --require-hashes -r requirements/run.txt
	@$(BIN)/pip --python $(SBOM)/wheel --quiet --disable-pip-version-check install --no-compile --no-deps --no-index dist/*.whl
	@version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' exporter/__init__.py) && \
		sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > $(SBOM)/pyproject.toml && \
		$(SBOM)/bin/cyclonedx-py environment $(SBOM)/wheel --pyproject $(SBOM)/pyproject.toml --output-reproducible \
			--output-file dist/knock_exporter-$$version.cdx.json

pictures: .venv/dev ## renew docs/pictures from the demo; needs Chromium, Prometheus and Node.js
	tests/e2e/get-web-tools
	mkdir -p .tools/dashboard && cp tools/dashboard/* .tools/dashboard
	cd .tools/dashboard && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	cd .tools/dashboard && npm run --silent build
	$(BIN)/python tools/pictures.py

clean: ## remove what the other targets made
	rm -rf .venv .tools .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
