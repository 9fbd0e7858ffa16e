# Homeroom's commands. Each makes the environment that it needs, once; `make help` lists them.
# PYTHON=…      another Python (3.11 or newer)
# PIP_EXTRA=…   options for pip, where torch's CPU build does not come from the usual index
# PYTEST_ARGS=… further arguments for pytest; WORKERS=… test files at a time; DATA=… the folder of the shared data sets; SEEDS=…; JSON=…; ROLES=…

VENV := .venv
DEVICE := .venv-device
OLDEST := .venv-oldest
OLDEST_RUNTIME := 1.22.0
FLOWER_ENV := .venv-flower
LITERT := .venv-litert
RELEASE := .venv-release
DOCS := .venv-docs
TRY := .venv-try
BIN := $(VENV)/bin
PACKAGE := $(shell find sdk exporter aggregator -name '*.py')
# Three files at a time on two cores: one works while others wait. One thread each, so that libraries do not fight.
WORKERS ?= 3
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PYTEST_ARGS ?=
DATA ?=
OUT ?=
DISTRICT ?=
KEY ?=
CERTIFICATE ?=
SEEDS ?=
ROLES ?=
JSON ?=

export PYTHON PIP_EXTRA
export HOMEROOM_DEVICE_PYTHON := $(CURDIR)/$(DEVICE)/bin/python
export HOMEROOM_LITERT_PYTHON := $(CURDIR)/$(LITERT)/bin/python

.PHONY: help demo test test-extra test-oldest test-flower quick lint format types bench-device bench-federation bench-secure bench-codecs bench-privacy bench-aggregator bench-personalization bench-solved bench-languages bench-modalities bench-faults bench-scale bench-storage bench-robustness bench-equity bench-unlearning bench-continual bench-apps bench-honesty bench-baselines freeze freeze-pi freeze-flower clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

.PHONY: pictures
pictures: $(VENV)/.ready ## the dashboard's pictures in docs/images, drawn by Debian's Chromium
	cd tests && ../$(BIN)/python -m browser.pictures

.PHONY: docs freeze-docs
docs: $(DOCS)/.ready ## the documentation as a site in build/site; any link that leads nowhere, or load from elsewhere, is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

.PHONY: quickstart starter
quickstart: dist/starter.homeroom $(DEVICE)/.ready ## a first lesson: a device without torch learns forty drawings, is asked, explains (OUT=…; DISTRICT=1: three schools)
	$(if $(DISTRICT),$(BIN),$(DEVICE)/bin)/homeroom quickstart $(if $(DISTRICT),--district) $(OUT)

starter: dist/starter.homeroom ## make dist/starter.homeroom, the bundle of `homeroom quickstart` (minutes; KEY=… CERTIFICATE=… sign it)

dist/starter.homeroom: examples/starter/recipe.toml examples/starter/calibration.py $(wildcard sdk/homeroom/quickstart/*) | $(VENV)/.ready
	rm -rf build/starter/calibration build/starter/starter build/starter/starter.*homeroom && mkdir -p dist build/starter
	$(BIN)/python -m examples.starter.calibration build/starter/calibration
	$(BIN)/homeroom bundle export examples/starter/recipe.toml build/starter/starter --calibration build/starter/calibration/samples.jsonl --zip $(if $(KEY),--key $(KEY) --certificate $(CERTIFICATE))
	mv build/starter/starter.homeroom build/starter/starter.float32.homeroom dist/

.PHONY: release
release: dist/starter.homeroom ## wheel, sdist and the starter bundle in dist/, checked by twine, installed and tried in a clean environment
	rm -rf dist/homeroom-* build/try && mkdir -p build/try
	.ci/environment $(RELEASE) build twine
	$(RELEASE)/bin/python -m build --outdir dist .
	$(RELEASE)/bin/python -m twine check --strict dist/homeroom-*
	rm -rf $(TRY) && .ci/environment $(TRY) -c constraints.txt dist/homeroom-*.whl
	cd build/try && ../../$(TRY)/bin/homeroom --version && ../../$(TRY)/bin/homeroom quickstart session --json > session.json
	@echo "dist/ holds the release; build/try/session.json is what its quickstart did"

.PHONY: newcomer
newcomer: dist/starter.homeroom $(VENV)/.ready ## what each role of a new user needs, from the docs' blocks in new environments (ROLES="technician officer": some; JSON=…)
	rm -rf build/wheel && $(BIN)/python -m pip wheel -q --no-deps -w build/wheel .
	cd tests && ../$(BIN)/python -m newcomer $(ROLES) --wheel ../build/wheel/homeroom-*.whl --starter ../dist/starter.homeroom $(if $(JSON),--json $(abspath $(JSON)))

demo: $(VENV)/.ready $(DEVICE)/.ready ## run the vocabulary lesson: five schools, one aggregator, a report
	$(BIN)/python -m examples.vocabulary.demo

test: $(VENV)/.ready $(DEVICE)/.ready ## every test but those that take minutes
	$(PYTEST) -m "not extra" $(PYTEST_ARGS)

test-extra: $(VENV)/.ready $(DEVICE)/.ready $(LITERT)/.ready ## the tests that take minutes each
	$(PYTEST) -m extra $(PYTEST_ARGS)

test-oldest: $(VENV)/.ready $(OLDEST)/.ready ## the device's tests on the oldest runtime that is supported, without torch
	cd tests && ../$(BIN)/python -c "import tiny; tiny.bundle()"
	$(OLDEST)/bin/python -c "import onnxruntime; assert onnxruntime.__version__ == '$(OLDEST_RUNTIME)'"
	$(OLDEST)/bin/python -m pytest -m "not slow and not extra" tests/sdk $(PYTEST_ARGS)

test-flower: $(VENV)/.ready $(FLOWER_ENV)/.ready ## Flower's engine: simulation, and SuperLink and SuperNodes as processes
	cd tests && ../$(BIN)/python -c "import tiny; tiny.bundle()"
	$(FLOWER_ENV)/bin/python -m pytest tests/flower $(PYTEST_ARGS)

quick: $(VENV)/.ready $(DEVICE)/.ready ## the tests without the slow ones
	$(PYTEST) -m "not slow and not extra" $(PYTEST_ARGS)

lint: $(VENV)/.ready ## check with ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready ## format and fix with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-device: $(VENV)/.ready $(DEVICE)/.ready ## a device against torch + PEFT: short answers, speech, footprint (over an hour; QUICK=1: minutes; ONLY=…)
	$(BIN)/python benchmarks/device.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-federation: $(VENV)/.ready $(DEVICE)/.ready ## accuracy of schools alone, together, and with all data in one place
	$(BIN)/python benchmarks/federation.py $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-codecs: $(VENV)/.ready ## bytes, score and speed of the update codecs (QUICK=1: minutes; VOCABULARY=1: the lesson too)
	$(BIN)/python benchmarks/codecs.py $(if $(QUICK),--quick) $(if $(VOCABULARY),--vocabulary) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-aggregator: $(VENV)/.ready ## merging, HTTP under load, start on a long log (QUICK=1: a tenth of it; FLOWER=a Python with flwr)
	$(BIN)/python benchmarks/aggregator.py $(if $(QUICK),--quick) $(if $(FLOWER),--flower $(FLOWER)) $(if $(JSON),--json $(JSON))

bench-scale: $(VENV)/.ready ## the tables of docs/measurements/scale.md (AGGREGATOR=bench-aggregator's JSON; QUICK=1: a tenth of it)
	$(BIN)/python benchmarks/scale.py $(if $(QUICK),--quick) $(if $(AGGREGATOR),--aggregator $(AGGREGATOR)) $(if $(JSON),--json $(JSON))

bench-privacy: $(VENV)/.ready ## promise, noise and accuracy of private rounds, and an attack (QUICK=1: minutes)
	$(BIN)/python benchmarks/privacy.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-secure: $(VENV)/.ready $(FLOWER_ENV)/.ready ## secure rounds: exact sums, masking, against Flower's SecAgg+ (half an hour; QUICK=1: minutes)
	$(BIN)/python benchmarks/secure_aggregation.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-personalization: $(VENV)/.ready ## accuracy of personal models on a hundred devices (QUICK=1: minutes)
	$(BIN)/python benchmarks/personalization.py $(if $(QUICK),--quick) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-solved: $(VENV)/.ready ## heads solved from sums: exact, robust, private, beside trained heads (an hour; ONLY=sums,cost: a minute)
	$(BIN)/python benchmarks/solved.py $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-languages: $(VENV)/.ready ## texts in sixteen languages: parity, sizes, speed, memory, schools, the vocabulary lesson (half an hour; ONLY=parity,sizes,speed,memory,schools: minutes)
	$(BIN)/python benchmarks/languages.py $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-modalities: $(VENV)/.ready ## accuracy with missing senses and wrong labels (over half an hour; QUICK=1: minutes)
	$(BIN)/python benchmarks/modalities.py $(if $(QUICK),--quick) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-faults: $(VENV)/.ready ## fault injection: power cuts, kills, damage, full disks, bad lines (half an hour; QUICK=1: minutes)
	$(BIN)/python benchmarks/fault_injection.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-apps: $(VENV)/.ready ## the SDK in an app: threads, cancelling, a second process, public names (minutes; QUICK=1: one minute)
	$(BIN)/python benchmarks/apps.py $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON))

bench-honesty: $(VENV)/.ready ## what a device says against what holds: sure answers, single inputs, new questions (minutes; ONLY=unsure,small: one)
	$(BIN)/python benchmarks/honesty.py $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON))

bench-baselines: $(VENV)/.ready ## a device beside five simple peers on seven lessons, ten splits (hours; SPLITS=2 ONLY="digits;spoken": minutes)
	$(BIN)/python benchmarks/baselines.py $(if $(SPLITS),--splits $(SPLITS)) $(if $(ONLY),--only "$(ONLY)") $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON))

bench-equity: $(VENV)/.ready ## who is served: the worst tenth of schools beside the mean, by how a release weighs schools (QUICK=1: minutes)
	$(BIN)/python benchmarks/equity.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-robustness: $(VENV)/.ready ## accuracy of plain rounds with liars among the devices, by rule and attack (hours; QUICK=1: minutes)
	$(BIN)/python benchmarks/robustness.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

bench-unlearning: $(VENV)/.ready ## a rewind beside leaving out, starting over and never having had it (an hour; QUICK=1: one seed; ONLY=digits|answers|vocabulary)
	$(BIN)/python benchmarks/unlearning.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON))

bench-continual: $(VENV)/.ready ## what is kept of a lesson that grows, by method (a quarter of an hour; QUICK=1: one seed; ONLY=digits|terms)
	$(BIN)/python benchmarks/continual.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JSON),--json $(JSON))

bench-storage: $(VENV)/.ready ## how often media are decrypted and hashed, against the release before (minutes; QUICK=1: one minute)
	$(BIN)/python benchmarks/storage.py $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

freeze: ## write constraints.txt from a clean install of the newest versions
	rm -rf .venv-freeze
	.ci/environment .venv-freeze '.[dev]'
	{ sed -n '/^#/p' constraints.txt; .venv-freeze/bin/python -m pip freeze | sed -n 's/+cpu$$//; /^homeroom/d; /==/p' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf .venv-freeze

freeze-pi: $(VENV)/.ready ## write the Raspberry Pi's pins from constraints.txt
	$(BIN)/python examples/raspberry_pi/pin.py

freeze-docs: ## write constraints-docs.txt, the pins of the environment that the site is made in
	rm -rf .venv-freeze
	.ci/environment .venv-freeze -c constraints.txt '.[docs]'
	{ sed -n '/^#/p' constraints-docs.txt; .venv-freeze/bin/python -m pip freeze | sed -n '/^homeroom/d; /==/p' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints-docs.txt
	rm -rf .venv-freeze

freeze-flower: ## write constraints-flower.txt, the pins of Flower's environment
	rm -rf .venv-freeze
	.ci/environment .venv-freeze '.[flower]' pytest pytest-timeout hypothesis
	{ sed -n '/^#/p' constraints-flower.txt; .venv-freeze/bin/python -m pip freeze | sed -n '/^homeroom/d; /==/p' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints-flower.txt
	rm -rf .venv-freeze

clean: ## remove the environments
	rm -rf $(VENV) $(DEVICE) $(OLDEST) .venv-*

# Stamps: dependencies are installed again when they change, the package when a source file does.
$(VENV)/.ready: pyproject.toml constraints.txt .ci/environment
	.ci/environment $(VENV) -c constraints.txt -e '.[dev]'
	touch $@

$(DEVICE)/.dependencies: pyproject.toml constraints.txt .ci/environment
	.ci/environment $(DEVICE) -c constraints.txt '.[secure]'
	touch $@

$(DEVICE)/.ready: $(DEVICE)/.dependencies $(PACKAGE)
	.ci/environment $(DEVICE) --no-deps --force-reinstall .
	touch $@

$(OLDEST)/.dependencies: pyproject.toml constraints.txt .ci/environment
	mkdir -p build && sed '/^onnxruntime==/d' constraints.txt > build/oldest.txt
	.ci/environment $(OLDEST) -c build/oldest.txt '.[secure]' onnxruntime==$(OLDEST_RUNTIME) pytest pytest-timeout hypothesis
	touch $@

$(OLDEST)/.ready: $(OLDEST)/.dependencies $(PACKAGE)
	.ci/environment $(OLDEST) --no-deps --force-reinstall .
	touch $@

# litert-torch needs an older typing_extensions than the rest, so it has an environment of its own.
$(LITERT)/.dependencies: pyproject.toml constraints.txt .ci/environment
	mkdir -p build && sed '/^anyio==/d;/^typing_extensions==/d' constraints.txt > build/litert.txt
	.ci/environment $(LITERT) -c build/litert.txt '.[exporter,convert]'
	touch $@

$(LITERT)/.ready: $(LITERT)/.dependencies $(PACKAGE)
	.ci/environment $(LITERT) --no-deps --force-reinstall .
	touch $@

$(FLOWER_ENV)/.dependencies: pyproject.toml constraints-flower.txt .ci/environment
	.ci/environment $(FLOWER_ENV) -c constraints-flower.txt '.[flower]' pytest pytest-timeout hypothesis
	touch $@

$(DOCS)/.ready: pyproject.toml constraints-docs.txt .ci/environment
	.ci/environment $(DOCS) -c constraints-docs.txt -e '.[docs]'
	touch $@

$(FLOWER_ENV)/.ready: $(FLOWER_ENV)/.dependencies $(PACKAGE)
	.ci/environment $(FLOWER_ENV) --no-deps --force-reinstall .
	touch $@
