# Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
BIN := .venv/bin
DEMO ?= demo
CHECKPOINT ?= $(DEMO)/video

.PHONY: demo gallery trained test parity plan lint format clean

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "soraflax needs Python 3.11 or newer; $(PYTHON) is older" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# Huge pages spare the allocator's page faults: a third of a training step on a CPU.
demo: .venv/installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m experiments.demo --output $(DEMO)

# One picture for every way of prompting, by the demo's model or that of CHECKPOINT.
gallery: trained .venv/installed
	$(BIN)/python -m experiments.gallery --checkpoint $(CHECKPOINT)

trained:
	@test -d $(CHECKPOINT) || { echo "no model in $(CHECKPOINT): run 'make demo' first," \
	  "or name another: CHECKPOINT=DIR make gallery" >&2; exit 2; }

test: .venv/installed
	$(BIN)/python -m pytest -n 2

# Against PyTorch and diffusers, which only this target installs.
parity: .venv/parity
	SORAFLAX_PARITY=1 $(BIN)/python -m pytest tests/parity

.venv/parity: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[parity,dev]'
	@touch $@

# Plans of the shipped configs; the TPU compiler, which only this target installs, needs
# no TPU.
plan: .venv/plan
	SORAFLAX_PLAN=1 $(BIN)/python -m pytest tests/compiler
	$(BIN)/python -m experiments.benchmarks.pod_plans

.venv/plan: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[plan,dev]'
	@touch $@

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo build dist
