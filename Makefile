# Every target sets up what it needs in a local virtual environment; only Python >= 3.11 and pip are assumed.

VENV ?= .venv
BIN := $(VENV)/bin

# The first interpreter that is new enough and can make a virtual environment; `make PYTHON=...` overrides.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Tests start hundreds of interpreters: each would compile the whole package anew, which takes longer than most programs.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo service test test-all test-others bench bench-peers soak lint collect wheel docs clean help
# Two installs into one environment must not overlap.
.NOTPARALLEL:

help:
	@echo "make demo         the relief of a mountain range, computed three ways: relief.png, trace.json, trace.png"
	@echo "make service      the example service under load for 30 seconds, beside the same without the engine"
	@echo "make test         style, types, pages, tests, and the built package; test-all: on every Python found here"
	@echo "make lint         style and types alone"
	@echo "make wheel        both distributions built, checked, and installed elsewhere"
	@echo "make docs         all pages and the reference as one site: build/docs/index.html"
	@echo "make bench        measure, and write docs/performance.md; bench-peers: install what it compares with"
	@echo "make soak         a service under mixed load for an hour; SOAK_SECONDS=60 for less"
	@echo "make clean        remove the environment ($(VENV)) and all that was built"

demo: $(VENV)/.demo
	$(BIN)/python -m engine demo --trace trace.json

# The example service, and the same without the engine, under load for 30 seconds.
service: $(VENV)/.service
	$(BIN)/python docs/examples/service/load.py --seconds 30

# Style and types beside the pages and the built package, as each takes one core; then behaviour. Each process of pytest
# imports all tests: one compiles them before, and names what cannot be imported.
test: $(VENV)/.test
	@$(MAKE) --no-print-directory lint collect & lint=$$!; $(MAKE) --no-print-directory docs wheel; rest=$$?; wait $$lint && exit $$rest
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 1

# On every supported Python that is found here; what is not found is named. `make test-all PYTEST="tests/test_cli.py"`.
test-all: $(VENV)/.test
	$(BIN)/python tests/all_pythons.py $(if $(PYTEST),-- $(PYTEST))

# The versions beside this environment's that are found here: a quarter of the files that need no services or pages,
# another one each day, in environments of their own, for some minutes at most. Only tests that fail twice fail it.
test-others: $(VENV)/.test
	$(BIN)/python tests/all_pythons.py --others --quarter --minutes 5

# A service under mixed load, with errors and clients that leave, for an hour: `make soak SOAK_SECONDS=60` for less.
SOAK_SECONDS ?= 3600
soak: $(VENV)/.bench
	$(BIN)/python -m benchmarks.soak --seconds $(SOAK_SECONDS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.graphs
	$(BIN)/python -m benchmarks.fairness
	$(BIN)/python -m benchmarks.native --write
	$(BIN)/python -m benchmarks.chains --write
	$(BIN)/python -m benchmarks.cluster

# What `make bench` measures beside eagerloop where it finds them. PyTorch is left out: the registry's build brings
# gigabytes of CUDA; a CPU build that is installed by hand is measured as well.
bench-peers: $(VENV)/.bench
	$(BIN)/python -m pip install --quiet numexpr 'dask[array]' jax tensorflow-cpu

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

collect: $(VENV)/.test
	@found=$$($(BIN)/python -m pytest --collect-only -qq 2>&1) || { echo "$$found"; exit 1; }

# Both distributions, and the wheel as a user would install it.
wheel: $(VENV)/.test
	$(BIN)/python tests/wheel_check.py

# Anew each time: what a page is made of cannot be told from the dates of files, as op tables make the functions.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --quiet --builder html docs build/docs

clean:
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted set-up is done again. uv installs in seconds what pip takes minutes for;
# where it cannot be had, or does not find the packages where pip does, pip installs them.
$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 with venv is needed (make PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo $(VENV)/.service $(VENV)/.bench $(VENV)/.test: $(VENV)/.%: $(VENV)/.created pyproject.toml
	{ $(BIN)/python -m pip install --quiet uv && $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --editable '.[$*]'; } \
		|| $(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@
