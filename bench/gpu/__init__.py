"""Measurements on a GPU; see bench/gpu.sh."""
