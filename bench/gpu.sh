#!/usr/bin/env bash
# Everything there is to know about gradfast on this machine's GPU, in one command under ten minutes and without a
# network: build, tests, compute-sanitizer, kernels against the roofline, the engine against its peers.
#
#   bench/gpu.sh [folder for the results, default build/gpu]
#
# A part that fails or runs out of time is recorded and the rest goes on. results.json holds all numbers, index.html the
# plots, and a log of each part lies beside them. GRADFAST_GPU_DEVICE=cpu exercises the same steps on the CPU with small
# shapes; PYTHON chooses the interpreter. Wheels in build/gpu-wheels serve for packages that it lacks (docs/cuda.md).
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
if compgen -G "build/gpu-wheels/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    if "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" build/gpu-wheels/*.whl; then
        export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
    fi
fi
"$python" -m bench.gpu.run --out "${1:-build/gpu}" --device "${GRADFAST_GPU_DEVICE:-cuda}"
