# make demo        install into .venv, gather a real corpus, embed it on a local Ray, answer three searches
# make test        the whole test suite (what needs an S3 server or a GPU that is not there is left out, and named)
# make test-fast   without tests that are slow, measure time, or need Ray or S3
# make faults      all of tests/faults, each case as often as docs/reliability.md says: over an hour
# make soak        runs under fire (tests/faults) for as long as told: make soak ARGS='--minutes 60'; prints what was injected
# make lint        formatting, lint, types, import contracts
# make bench       the measured claims in benchmarks/: lists them; BENCH=… ARGS=… runs one
#
# PYTHON=… picks the interpreter (3.11 to 3.13); ARGS=… is handed to pytest, e.g. make test ARGS='-k scheduler'.
# make test runs on WORKERS=3 processes, of which some wait for others; tests that measure time run last, alone. make test-fast
# only computes: FAST_WORKERS=2, as each process needs some 15 seconds to collect the tests.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast faults soak lint bench clean

WORKERS := 3
FAST_WORKERS := 2
VENV := .venv
BIN := $(VENV)/bin
# --no-compile: compiling every module of torch, Ray and transformers takes longer than all that is installed for; Python compiles
# what is imported, once.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile -c constraints.txt
COMPILED := $(wildcard workers/*/*.c workers/*/*/*.c workers/*/*/*.h)
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

help:
	@sed -n 's/^# //p' Makefile

demo: $(VENV)/.stamp-demo
	$(BIN)/python -m jobs.demo

test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-fast: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n $(FAST_WORKERS) -m 'not (slow or alone or ray or s3)' $(ARGS)

faults: $(VENV)/.stamp-dev
	REEMBED_FAULTS=all REEMBED_REPLICA_KILLS=20 REEMBED_DRIVER_KILLS=20 REEMBED_NIGHT_KILLS=20 REEMBED_TABLE_KILLS=20 REEMBED_RACES=20 \
	  REEMBED_FREEZE_SECONDS=30 $(BIN)/python -m pytest tests/faults tests/test_s3_server.py $(ARGS)

soak: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.faults.soak $(ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.stamp-dev
ifdef BENCH
	$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)
else
	@echo "make bench BENCH=name ARGS='…', where name is one of:"
	@for file in benchmarks/[a-z]*.py benchmarks/*/__main__.py; do \
	  name=$${file#benchmarks/}; name=$${name%.py}; \
	  printf '  %-18s %s\n' "$${name%/__main__}" "$$(sed -n '1s/^"""//p' "$$file")"; done
	@echo "ARGS=--help says what each needs; results lie in benchmarks/results/"
endif

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Without ensurepip (Debian's bare python3) the system's pip puts itself into the new environment.
$(VENV)/.stamp-venv:
	@set -e; for python in $(CANDIDATES); do \
	  if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) 2>/dev/null || { \
	      "$$python" -m venv --clear --without-pip $(VENV) && "$$python" -m pip -qq --python $(BIN)/python install pip; }; \
	    touch $@; exit 0; \
	  fi; \
	done; echo "no Python 3.11, 3.12 or 3.13 in: $(CANDIDATES); name one: make PYTHON=/path/to/python3" >&2; exit 1

# torch goes first and by itself: the pin takes whichever build the configured indexes offer (CUDA, or CPU), once.
$(VENV)/.stamp-torch: constraints.txt | $(VENV)/.stamp-venv
	@echo "installing torch (minutes when it has to be fetched)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-torch pyproject.toml $(COMPILED)
	@echo "installing the project"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-torch pyproject.toml $(COMPILED)
	@echo "installing the project with its development tools"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.stamp-demo
