"""Ties to other libraries, one module each, which imports that library and nothing else here does."""
