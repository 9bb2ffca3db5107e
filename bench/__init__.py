"""Benchmarks: pytest-benchmark files, and ``python -m bench``, which runs them within ten minutes and writes RESULTS.md."""
