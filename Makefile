# Everything works from a fresh clone with python3 (3.10 or newer), pip and make.
#
#   make demo [DEVICE=cpu|opencl|ref] [DEMO=digits|text] [ARGS="--epochs 3"]
#   make test [ARGS="-k softmax"]      make opencl      make cuda        make parity
#   make bench [SUITE=opdb|compile|...]  # timings
#   make parity-full [ARGS="--seed 1"]  make conformance DEVICE=...  make lint  make clean
#   make gpu                           # tests and benchmarks on an NVIDIA GPU (SANITIZE=1)
#   make onnx                          # the onnx package's own tests of every operator
#   make programs PROGRAMS=/path     # public PyTorch programs, from checkouts in this folder
#   make nightly                       # 20,000 random programs against NumPy and PyTorch
#
# The environment is .venv; what is installed there is remembered by stamp files and installed
# again when a source file is newer.

PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= digits
DEVICE ?= cpu
SUITE  ?=
ARGS   ?=
PROGRAMS ?=

PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip --disable-pip-version-check --no-input
SAID := $(VENV)/.stamps

# Wheels are built without isolation, from the setuptools of .venv: one download instead of four.
INSTALL := $(PIP) install -q --no-build-isolation

sources = $(shell find $(1) -name '*.py' -not -path '*/build/*') $(1)/pyproject.toml
CORE    := $(call sources,core)
CPU     := $(call sources,backends/cpu)
OPENCL  := $(call sources,backends/opencl)
CUDA    := $(call sources,backends/cuda)
REF     := $(call sources,plugins/refdevice)
CONFORM := $(call sources,plugins/conformance)
VISION  := $(call sources,plugins/vision)

# What `make demo DEVICE=x` needs beside the core and the CPU; a stranger's device needs its own
# wheel in .venv.
NEEDS_opencl := $(SAID)/opencl
NEEDS_cuda   := $(SAID)/cuda
NEEDS_ref    := $(SAID)/ref

.PHONY: demo test onnx programs opencl cuda cuda-kernels parity parity-tests parity-full nightly bench conformance conformance-faults matrix gpu lint install clean help
.DEFAULT_GOAL := help

help:
	@sed -n '3,14s/^# \{0,1\}//p' Makefile

demo: $(SAID)/demo $(NEEDS_$(firstword $(subst :, ,$(DEVICE))))
	@$(VENV)/bin/lampion demo $(DEMO) --device $(DEVICE) $(ARGS)

test: install $(SAID)/dev
	$(PY) -m pytest -n auto --dist loadgroup -k "not opencl and not cuda" $(ARGS)

# Every test that runs on the OpenCL device, and the backend's own in both schedules. They take
# their time, mostly PoCL compiling.
opencl: install $(SAID)/dev
	@command -v ld >/dev/null || echo "note: no 'ld' (binutils) here, so that tests on PoCL are skipped"
	$(PY) -m pytest -n auto --dist loadgroup -k opencl tests/opencl tests/unit tests/ops tests/plugins $(ARGS)

# The CUDA backend without a GPU: every test that runs on its device, on a simulated driver with
# kernels run on the host (tests/cuda/simulator). It needs a C++ compiler, ziglang if need be.
cuda: install $(SAID)/cuda-simulator $(SAID)/dev
	@command -v g++ clang++ >/dev/null || $(PIP) install -q ziglang
	LAMPION_SIMULATOR=on,texts=$(VENV)/kernels $(PY) -m pytest -n auto --dist loadgroup -k cuda \
	    tests/cuda tests/ops tests/unit $(ARGS)

# What NVRTC says of all kernels of those tests, for three generations of GPUs: registers, spills.
cuda-kernels: cuda
	$(PY) tests/cuda/gate.py report $(VENV)/kernels -o $(VENV)/kernels.md
	@tail -n +3 $(VENV)/kernels.md | head -1

# Comparison with PyTorch: programs, modules, optimizers, and results, gradients, errors and in-place
# forms of its operator database, held against the list of known gaps.
parity-tests: install $(SAID)/dev $(SAID)/torch
	LAMPION_OPDB_RESULTS=$(VENV)/opdb/cpu.json \
	    $(PY) -m pytest -n auto --dist loadgroup tests/parity $(ARGS)

# The same, and then the rest of the database's checks and the other devices are counted: prints the
# tables and writes docs/support.md.
parity: parity-tests
	$(PY) tests/parity/opdb --samples 2 --quiet --json $(VENV)/opdb/rest.json \
	    --check reference,layouts,gradgrad,forward_mode,vmap,out || true
	for device in opencl ref; do $(PY) tests/parity/opdb --device $$device --check forward \
	    --samples 1 --quiet --json $(VENV)/opdb/$$device.json || true; done
	$(PY) tests/parity/opdb --quiet --report docs/support.md --read \
	    $(VENV)/opdb/cpu.json $(VENV)/opdb/rest.json $(VENV)/opdb/opencl.json $(VENV)/opdb/ref.json

# Every sample of PyTorch's operator database, in every dtype, on every device.
parity-full: install $(SAID)/dev $(SAID)/torch
	for device in cpu opencl ref; do \
	    $(PY) tests/parity/opdb --device $$device --check all --dtypes all --samples 0 --quiet \
	        --timeout 1800 --json $(VENV)/opdb/$$device-full.json $(ARGS) || true; done
	$(PY) tests/parity/opdb --read $(VENV)/opdb/*-full.json --report docs/support.md --quiet

# Public PyTorch programs, unmodified: their checkouts lie in PROGRAMS under the names of the
# repositories (pytorch/examples as examples, jcjohnson/pytorch-examples as jc-examples).
programs: install $(SAID)/dev $(SAID)/torch
	LAMPION_PROGRAMS=$(abspath $(PROGRAMS)) $(PY) -m pytest tests/torch_programs $(ARGS)
	LAMPION_PROGRAMS=$(abspath $(PROGRAMS)) $(PY) tests/torch_programs/speed.py \
	    --write docs/benchmarks/programs.md

# Random programs of ops, views and writes: as many as a night allows.
nightly: install $(SAID)/dev $(SAID)/torch
	LAMPION_TEST_PROGRAMS=20000 $(PY) -m pytest -n auto $(ARGS) \
	    tests/unit/test_programs.py tests/parity/test_programs_parity.py

# What the onnx package tests an implementation of ONNX with, node by node.
onnx: install $(SAID)/dev
	$(PY) -m pytest -n auto tests/onnx_nodes $(ARGS)

bench: install $(SAID)/dev $(SAID)/torch
	$(PY) benchmarks/run.py $(SUITE) $(ARGS)

# What a device has to pass, whoever made it: chapters, a level, a report in .venv/conformance.
# ARGS="--quick" takes a sample.
conformance: install $(SAID)/dev
	@mkdir -p $(VENV)/conformance
	$(VENV)/bin/lampion conformance $(DEVICE) -n auto --html $(VENV)/conformance/$(DEVICE).html \
	    --json $(VENV)/conformance/$(DEVICE).json $(ARGS)

# docs/matrix.md, ops by devices and dtypes, from whole runs on these devices.
DEVICES ?= cpu ref
matrix: install $(SAID)/dev
	@mkdir -p $(VENV)/conformance
	for device in $(DEVICES); do $(VENV)/bin/lampion conformance $$device -n auto $(ARGS) \
	    --json $(VENV)/conformance/$$device.json || true; done
	$(VENV)/bin/lampion conformance-matrix --write docs/matrix.md \
	    $(foreach device,$(DEVICES),$(VENV)/conformance/$(device).json)

# The suite itself: a backend with one of forty faults must not pass, healthy ones must.
conformance-faults: install $(SAID)/dev
	$(PY) -m pytest -n auto tests/conformance $(ARGS)

# On a machine with an NVIDIA GPU: every op test on it, the backend's own tests on the real driver,
# and the benchmarks, which write docs/benchmarks/gpu.md (name another page with PAGE=). Each of
# cuDNN's plans is compared with a generated kernel. SANITIZE=1: also NVIDIA's compute-sanitizer.
PAGE ?= docs/benchmarks/gpu.md
gpu: install $(SAID)/cuda $(SAID)/dev
	LAMPION_CUDA_CHECK=1 LAMPION_TEST_DEVICES=cuda $(PY) -m pytest -n 8 -q tests/ops
	LAMPION_CUDA_CHECK=1 LAMPION_CUDA_REAL=1 $(PY) -m pytest -n 8 -q tests/cuda
	$(if $(SANITIZE),$(PY) tests/cuda/sanitize.py)
	$(PY) benchmarks/gpu.py --write $(PAGE) $(ARGS)

lint: install $(SAID)/lint
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

install: $(SAID)/cpu $(SAID)/opencl $(SAID)/ref $(SAID)/conformance $(SAID)/vision

clean:
	rm -rf $(VENV) core/build backends/*/build plugins/*/build
	find . -name '*.egg-info' -not -path './$(VENV)/*' -exec rm -rf {} +

# --- the environment -----------------------------------------------------------------------------

# Debian's python3 may lack ensurepip; then the pip that is there fills the environment.
$(SAID)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "lampion needs Python 3.10 or newer; try: make PYTHON=python3.11"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	    rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(PY) install -q pip; }
	$(PIP) install -q 'setuptools>=77' 'wheel>=0.43'
	@mkdir -p $(SAID) && touch $@

# A folder build/ of an earlier build would bring deleted modules back.
$(SAID)/cpu: $(SAID)/venv $(CORE) $(CPU)
	@echo "installing lampion-core and lampion-cpu from source"
	@rm -rf core/build backends/cpu/build
	$(INSTALL) ./core ./backends/cpu
	@touch $@

$(SAID)/opencl: $(SAID)/cpu $(OPENCL)
	@rm -rf backends/opencl/build
	$(INSTALL) './backends/opencl[pocl]'
	@touch $@

# The vendor's libraries are gigabytes: only what a machine with a GPU asks for.
$(SAID)/cuda: $(SAID)/cpu $(CUDA)
	@echo "installing lampion-cuda from source, with NVIDIA's libraries"
	@rm -rf backends/cuda/build
	$(INSTALL) './backends/cuda[all]'
	@touch $@

$(SAID)/cuda-simulator: $(SAID)/cpu $(CUDA)
	@rm -rf backends/cuda/build
	$(INSTALL) './backends/cuda[test]'
	@touch $@

$(SAID)/ref: $(SAID)/cpu $(REF)
	@rm -rf plugins/refdevice/build
	$(INSTALL) ./plugins/refdevice
	@touch $@

$(SAID)/conformance: $(SAID)/ref $(CONFORM)
	@rm -rf plugins/conformance/build
	$(INSTALL) ./plugins/conformance
	@touch $@

$(SAID)/vision: $(SAID)/cpu $(VISION)
	@rm -rf plugins/vision/build
	$(INSTALL) ./plugins/vision
	@touch $@

# The extras of a wheel that is already installed: pip only adds what is missing.
$(SAID)/demo: $(SAID)/cpu
	$(PIP) install -q 'lampion-core[demo]'
	@touch $@

$(SAID)/dev: $(SAID)/venv pyproject.toml
	$(PIP) install -q $$($(PY) .ci/extra.py dev)
	@touch $@

$(SAID)/lint: $(SAID)/venv pyproject.toml
	$(PIP) install -q $$($(PY) .ci/extra.py lint)
	@touch $@

$(SAID)/torch: $(SAID)/venv pyproject.toml
	$(PIP) install -q $$($(PY) .ci/extra.py parity)
	@touch $@
