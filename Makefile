# Every target sets up what it needs: a virtual environment in .venv, the dependencies and the compiled extension.
#
#   make demo      the demonstration, on images that come with the dependencies
#   make test      the tests, but for those marked slow and those of cuda-check (make test-all: every one)
#   make fuzz      so many new random models, and models changed between calls, against autograd (FUZZ=1000); prints how to repeat a failure
#   make cpp-test  the C++ unit tests, with CMake and ctest
#   make cpp-test SANITIZE=thread  the same under ThreadSanitizer, or address,undefined
#   make asan      the tests of make test, with kernels built for AddressSanitizer and UndefinedBehaviorSanitizer
#   make lint      ruff, mypy and clang-format
#   make cuda-check  the CUDA sources, as far as a machine without a GPU can tell (docs/cuda.md)
#   make docs      the documentation, into build/site; has an environment of its own
#   make lock      requirements/*.lock from what is installed (make distclean first, to have the newest)
#   make bench     the benchmarks, ten minutes; writes bench/RESULTS.md (BENCH_ARGS="--minutes 3 --only mlp kernels")
#
# PYTHON=python3.12 chooses the interpreter, PIP_TORCH="torch==2.9.1 torchvision==0.24.1" the torch, MAX_JOBS=1 the
# number of compilers at a time, PYTEST_ARGS="-k conv" what pytest runs.
PYTHON ?= python3
VENV ?= .venv
PIP_TORCH ?= torch torchvision
PYTEST_ARGS ?=
SANITIZE ?=
FUZZ ?= 1000
ASAN_FLAGS := -fsanitize=address,undefined
CPP_CUDA ?= OFF

BIN := $(VENV)/bin
DEPENDENCIES := $(VENV)/.gradfast-dependencies
EXTENSION := $(VENV)/.gradfast-extension
PEERS := $(VENV)/.gradfast-peers
SOURCES := $(shell find csrc build_support -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py')
CMAKE_BUILD := build/cmake$(if $(SANITIZE),-sanitize)

.PHONY: setup demo test test-all fuzz asan cpp-test lint format docs lock bench clean distclean

setup: $(EXTENSION)

demo: $(EXTENSION)
	$(BIN)/gradfast demo

test: $(EXTENSION)
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/cuda_on_cpu $(PYTEST_ARGS)

test-all: $(EXTENSION)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fuzz: $(EXTENSION)
	GRADFAST_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q tests/test_random_models.py tests/test_model_machine.py $(PYTEST_ARGS)

bench: $(EXTENSION) $(PEERS)
	$(BIN)/python -m bench $(BENCH_ARGS)

cpp-test: $(DEPENDENCIES)
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(CMAKE_BUILD) -G Ninja \
		-DPython3_EXECUTABLE="$(abspath $(BIN))/python" -DGRADFAST_SANITIZE=$(SANITIZE) -DGRADFAST_CUDA=$(CPP_CUDA)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(CMAKE_BUILD) $(if $(MAX_JOBS),-j $(MAX_JOBS))
	PATH="$(abspath $(BIN)):$$PATH" ctest --test-dir $(CMAKE_BUILD) --output-on-failure

# Beside the checkout's own extension; the check is that what is loaded was instrumented.
asan: $(DEPENDENCIES)
	CFLAGS="$(ASAN_FLAGS) -fno-sanitize-recover=undefined -fno-omit-frame-pointer" LDFLAGS="$(ASAN_FLAGS)" \
		$(BIN)/python setup.py -q build_py --build-lib build/asan/lib build_ext --build-lib build/asan/lib --build-temp build/asan/temp
	nm -D build/asan/lib/gradfast/_C*.so | grep -q __asan_report_load
	nm -D build/asan/lib/gradfast/_C*.so | grep -q __ubsan_handle
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		PYTHONPATH="$(CURDIR)/build/asan/lib:$(CURDIR)" $(BIN)/pytest -m "not slow" --ignore=tests/cuda_on_cpu $(PYTEST_ARGS)

lint: $(EXTENSION)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests/cpp -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | \
		xargs $(BIN)/clang-format --dry-run --Werror

format: $(DEPENDENCIES)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests/cpp -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

# Build isolation would compile against a second torch, newer perhaps than the one installed.
$(DEPENDENCIES): pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_TORCH) "setuptools>=77" wheel ninja
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[dev]"
	touch $@

$(PEERS): $(DEPENDENCIES)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e ".[bench]"
	touch $@

$(EXTENSION): $(DEPENDENCIES) $(SOURCES)
	$(BIN)/python setup.py -q build_ext --inplace
	touch $@

# The site's generator reads the sources and imports nothing, and some extras pin older versions of what it needs.
docs: $(VENV)-docs/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build -q --strict -d build/site

$(VENV)-docs/.installed: pyproject.toml
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install -q --disable-pip-version-check "mkdocs-material>=9.5" "mkdocstrings[python]>=0.29" "latex2mathml>=3.77" "ruff>=0.6" "setuptools>=78.1.1"
	touch $@

# Two locks: some extras pin older versions of what the site's generator needs.
lock: $(PEERS) $(VENV)-docs/.installed
	$(BIN)/python -m build_support.lock dev $(BIN)/python
	$(BIN)/python -m build_support.lock docs $(VENV)-docs/bin/python

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f gradfast/*.so $(EXTENSION)

distclean: clean
	rm -rf $(VENV) $(VENV)-docs

include tests/cuda_on_cpu/cuda.mk
