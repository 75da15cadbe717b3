# `make demo` and `make test` do everything. Each first makes .venv with the pinned requirements that it needs.
# `make setup` only makes it: for a CPU, with GPU=1 (the default where nvidia-smi works) for an NVIDIA GPU.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
GPU ?= $(shell [ $$(uname -m) = x86_64 ] && nvidia-smi > /dev/null 2>&1 && echo 1)
KIND := $(if $(filter-out 0,$(GPU)),gpu,cpu)
RUN := requirements$(if $(filter gpu,$(KIND)),-gpu).txt
READY := .venv/.ready-$(KIND)
TOOLS := .venv/.ready-dev
PEERS := .venv-peers/.ready
# The lists name every package, so nothing is resolved again (which would bring what the CPU's list leaves out).
INSTALL := $(UV) install --python $(BIN)/python --quiet --no-deps --compile-bytecode

.PHONY: demo test lint lock deployments pictures compare-peers setup clean

demo: $(READY)
	$(BIN)/burnish run quickstart $(DEMO)

# On two cores a third process fills the pauses of the others; a fourth would only import all libraries once more. A test
# that must be interrupted in time (pair) leaves one core free, a test that measures time (alone) needs both.
# pytest-xdist hangs at the end where it has replaced a process that crashed (its issue 1378), so it ends and names the test.
test: $(TOOLS) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" --numprocesses 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --durations=15
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/flows/terminal -m pair --numprocesses 2 --max-worker-restart 0 --dist worksteal --durations=5
	$(BIN)/python -m pytest -m "alone and not pair" --durations=15

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

setup: $(READY)

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "burnish needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

# ONNX Runtime's two builds are installed into the same folder, so that the one must go before the other comes.
$(READY): .venv/bin/uv $(RUN) pyproject.toml
	@rm -f .venv/.ready-cpu .venv/.ready-gpu
	@$(UV) uninstall --python $(BIN)/python --quiet onnxruntime$(if $(filter cpu,$(KIND)),-gpu) 2> /dev/null || true
	$(INSTALL) -r $(RUN)
	$(INSTALL) --no-build-isolation --editable .
ifeq ($(KIND),gpu)
	@$(UV) install --python $(BIN)/python --quiet -r requirements-tensorrt.txt 2> .venv/tensorrt.log || \
	  echo "TensorRT is not installed: its libraries' package index cannot be reached (.venv/tensorrt.log has the details). Engines are built by TensorRT for RTX." >&2
endif
	@touch $@

$(TOOLS): $(READY) requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	@touch $@

deployments: $(READY)
	$(BIN)/python -m flows.orchestration.deployments > prefect.yaml.new && mv prefect.yaml.new prefect.yaml

# The README's two pictures; chromium draws the report.
pictures: $(READY)
	$(BIN)/python docs/pictures.py quickstart --again benchmark --set 'models=["lenet5"]' --set benchmark.batch_sizes=[1]

# What other quantizers make of the same file and images (docs/PEERS.md), in a quarter of an hour. SMOKE=1: a small network.
# MODEL=mobilenetv3-small: another network than EfficientNet-Lite0, whose weights are among the tools; it is trained first, in
# up to an hour. OPTIMIZE="--minutes 15": options of `burnish optimize`.
compare-peers: $(TOOLS) $(PEERS)
	$(BIN)/python -m compare $(if $(MODEL),--model $(MODEL)) $(if $(SMOKE),--smoke) -- $(OPTIMIZE)

# --clear: what an older list installed is gone.
$(PEERS): .venv/bin/uv requirements-peers.txt
	$(PYTHON) -m venv --clear --without-pip .venv-peers
	$(UV) install --python .venv-peers/bin/python --quiet --no-deps -r requirements-peers.txt
	@touch $@

COMPILE = $(UV) compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
lock: .venv/bin/uv
	$(COMPILE) requirements.in --excludes cpu-excludes.txt --output-file requirements.txt
	$(COMPILE) requirements.in requirements-gpu.in --constraints requirements.txt --no-emit-package onnxruntime \
	  --output-file requirements-gpu.txt
	$(COMPILE) requirements-dev.in --constraints requirements.txt --constraints requirements-gpu.txt --output-file requirements-dev.txt
	sed -nE 's/^((onnx|onnxruntime|openvino|torch)==[^ ]+).*/\1/p' requirements.txt > .venv/same-as-burnish.txt
	$(COMPILE) requirements-peers.in --constraints .venv/same-as-burnish.txt --excludes cpu-excludes.txt \
	  --output-file requirements-peers.txt

clean:
	rm -rf .venv .venv-peers artifacts/store artifacts/tables artifacts/runs artifacts/scratch artifacts/compare
