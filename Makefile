# Every target sets up by itself: `make demo` on a fresh clone is all it takes.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow bench bench-demo bench-data docs setup clean

demo: setup  ## teach, measure and hand over, end to end, on the shipped example
	$(BIN)/fledge demo

# Many short processes come and go in the tests: waiting threads had better sleep soon (docs/decisions.md).
test test-slow: export GOMP_SPINCOUNT ?= 1000

test: setup  ## every check, and every test that takes seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow

bench: setup  ## the engine against TRL + PEFT, in turn on this machine; appends to benchmarks/results.csv
	$(BIN)/python -m pip install --quiet -e '.[train,dev,bench]' -c constraints.txt
	$(BIN)/python benchmarks/engine.py $(BENCH)

bench-demo: setup  ## the demo with two seeds, its figures against their targets; appends to the same file
	$(BIN)/python benchmarks/run.py

bench-data: setup  ## the checks of data: a million rows, and 100,000; appends to the same file
	$(BIN)/python benchmarks/data.py

docs: setup  ## write what is generated: docs/cli.md, docs/config.md, tests/surface.json
	$(BIN)/python docs/generate.py

setup: $(VENV)/.installed

# The stamp is newer than what it was installed from; otherwise pip runs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@python=; for name in python3 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "fledge needs Python 3.11 or newer; none was found as python3." >&2; exit 2; fi; \
	test -x $(BIN)/python || $$python -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "Could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet -e '.[train,dev]' -c constraints.txt
	@touch $@

clean:  ## everything that can be made again; pulled models and runs of yours stay
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests docs benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
