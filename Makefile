# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
BIN := .venv/bin
DEMO ?= demo
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
CHECKPOINT ?= $(DEMO)/video

.PHONY: help demo gallery trained report test test-fast test-page fuzz soak parity beam c2pa plan docs \
  lint format constraints dist clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "soraflax needs Python 3.11 or newer; $(PYTHON) is older" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Huge pages spare the allocator's page faults: a third of a training step on a CPU.
demo: .venv/installed ## train a small model from nothing and show its videos
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m experiments.demo --output $(DEMO)

gallery: trained .venv/installed ## a picture for every way of prompting, of CHECKPOINT=DIR
	$(BIN)/python -m experiments.gallery --checkpoint $(CHECKPOINT)

trained:
	@test -d $(CHECKPOINT) || { echo "no model in $(CHECKPOINT): run 'make demo' first," \
	  "or name another: CHECKPOINT=DIR make gallery" >&2; exit 2; }

# The quick form tries every command for a minute or two; its page is no result.
QUICK ?=
REPORTS := build/report$(if $(QUICK),-quick)
PAGE := $(if $(QUICK),$(REPORTS)/report.md,docs/report.md)
CLAIMS ?= sizes minute framing joint recaption emergence_room emergence_canvas \
  emergence_blocks emergence_occlusion physics control ladder_longer ladder_larger
report: .venv/installed ## every claim of the Sora report on one page (QUICK=--quick, CLAIMS='sizes minute')
	for name in $(CLAIMS); do case $$name in \
	  ladder_*) command="scaling.ladder --reading $${name#ladder_}";; \
	  *) command="reports.$$name";; esac; \
	  $(BIN)/python -m experiments.$$command --output $(REPORTS) $(QUICK) || exit; done
	$(BIN)/python -m experiments.reports.scoreboard $(REPORTS) --output $(PAGE)

# A file goes to one worker, which makes its fixtures; long files come before the end.
test: .venv/installed ## every test
	$(BIN)/python -m pytest $(WORKERS)

test-fast: .venv/installed ## the tests that take minutes, not a quarter of an hour
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

# What fails is kept in build/fuzz; the same seed and number make it again.
fuzz: .venv/installed ## damaged files, each read or refused in one line, and curated
	$(BIN)/python -m tests.media.fuzz --mutations 10000
	$(BIN)/python -m tests.data_pipelines.curate.fuzz --mutations 1000

# Chromium comes from the system, such as `apt-get install chromium`. Gradio wants
# another Pillow than constraints.txt names.
test-page: .venv/page ## the page of `soraflax serve` in a headless browser
	$(BIN)/python -m pytest tests/serving -rs

.venv/page: .venv/installed
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --editable '.[page,dev]'
	@touch $@

# A folder that is kept, and what it was doing, where it ends otherwise.
MINUTES ?= 120
soak: .venv/installed ## two hours of training with a fault a minute (MINUTES=120)
	$(BIN)/python -m tests.reliability.soak --minutes $(MINUTES)

# Against PyTorch and diffusers, which only this target installs.
parity: .venv/parity ## hold the modules against PyTorch and diffusers
	SORAFLAX_PARITY=1 $(BIN)/python -m pytest tests/parity

.venv/parity: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[parity,dev]'
	@touch $@

# Apache Beam wants an older protobuf than constraints.txt names: it has its own place.
beam: .venv/beam ## curation and recaptioning as Apache Beam pipelines
	SORAFLAX_BEAM=1 .venv/beam/bin/python -m pytest tests/beam

.venv/beam: .venv/installed
	$(PYTHON) -m venv .venv/beam
	PIP_CONSTRAINT= .venv/beam/bin/python -m pip install --quiet --editable '.[beam,test]'
	@touch $@

c2pa: .venv/c2pa ## content credentials in results, signed and read
	SORAFLAX_C2PA=1 $(BIN)/python -m pytest tests/c2pa

.venv/c2pa: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[c2pa,dev]'
	@touch $@

# The TPU compiler, which only this target installs, needs no TPU.
plan: .venv/plan ## compile the shipped configs for TPU pods, and test that
	SORAFLAX_PLAN=1 $(BIN)/python -m pytest tests/compiler
	$(BIN)/python -m experiments.benchmarks.pod_plans

.venv/plan: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[plan,dev]'
	@touch $@

docs: .venv/docs ## the documentation, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs,dev]'
	@touch $@

lint: .venv/installed ## ruff and pyright, as CI runs them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/installed ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: .venv/installed ## write constraints.txt: the versions in .venv
	@echo '# What is tested: made by `make constraints`, used by' > constraints.txt
	@echo '# `pip install -c constraints.txt soraflax[train]` and by CI.' >> constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable >> constraints.txt

dist: .venv/installed ## the wheel and the source archive, in dist/
	$(BIN)/python -m pip install --quiet 'build>=1.2'
	$(BIN)/python -m build

clean: ## remove .venv, the demo's model and everything built
	rm -rf .venv demo build dist
