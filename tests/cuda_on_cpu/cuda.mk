# make cuda-check: everything about the CUDA sources that a machine without a GPU can show; docs/cuda.md says what that is.
# Wants a CUDA torch and an nvcc of its version: a toolkit, or else nvidia's packages, which are then installed. Where
# neither can be had a line says so, and what needs no nvcc runs.
.PHONY: cuda-check cuda-check-nvcc cuda-kernels

HAS_TOOLKIT = $(BIN)/python -m build_support.cuda
HAS_CUDA_TORCH = $(BIN)/python -c "import sys, torch; sys.exit(not torch.version.cuda)"

cuda-check: $(DEPENDENCIES)
	@$(HAS_TOOLKIT) > /dev/null 2>&1 || { $(HAS_CUDA_TORCH) && $(BIN)/python -m pip install -q --disable-pip-version-check \
		--no-build-isolation -e ".[nvcc]"; } || true
	@if missing=$$($(HAS_TOOLKIT) 2>&1); then $(MAKE) --no-print-directory cuda-check-nvcc; else \
		echo "cuda-check: nothing is compiled for a GPU: $$missing"; \
		$(BIN)/python -m pytest -q tests/cuda_on_cpu $(PYTEST_ARGS); fi

# With GRADFAST_CUDA=1 no test may be left out. CMake builds for one architecture: enough to show that it can.
cuda-check-nvcc:
	GRADFAST_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace
	$(MAKE) --no-print-directory cpp-test CPP_CUDA="ON -DCMAKE_CUDA_ARCHITECTURES=80"
	GRADFAST_CUDA=1 $(BIN)/python -m pytest -q tests/cuda_on_cpu $(PYTEST_ARGS)
	$(BIN)/python -m tests.cuda_on_cpu.machine_code gradfast/_C*.so --check bench/KERNELS.md

# Renews the table of kernels after a change of csrc/cuda.
cuda-kernels: $(EXTENSION)
	$(BIN)/python -m tests.cuda_on_cpu.machine_code gradfast/_C*.so --write bench/KERNELS.md
