# Two commands do everything: `make demo` and `make test`. Both first make .venv with the pinned requirements.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
READY := .venv/.ready

.PHONY: demo test lint lock deployments setup clean

demo: $(READY)
	$(BIN)/burnish run quickstart $(DEMO)

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=15
	$(BIN)/python -m pytest -m alone

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "burnish needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(UV) install --python $(BIN)/python --quiet --compile-bytecode -r requirements.txt
	$(UV) install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

deployments: $(READY)
	$(BIN)/python -m flows.deployments > prefect.yaml.new && mv prefect.yaml.new prefect.yaml

lock:
	$(UV) compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  requirements.in --output-file requirements.txt

clean:
	rm -rf .venv artifacts/store artifacts/tables artifacts/runs artifacts/scratch
