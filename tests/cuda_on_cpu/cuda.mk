# make cuda-check: everything about the CUDA sources that a machine without a GPU can show. Wants a CUDA torch and its nvcc.
.PHONY: cuda-check

cuda-check: $(DEPENDENCIES)
	GRADFAST_CUDA=1 $(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/python -m tests.cuda_on_cpu.machine_code gradfast/_C*.so --write bench/KERNELS.md
	GRADFAST_CUDA=1 $(BIN)/python -m pytest -q tests/cuda_on_cpu $(PYTEST_ARGS)
