"""The CUDA sources, run on a machine without a GPU."""
