# Defines gradfast_torch (headers and CPU libraries of torch) and GRADFAST_CXX_STANDARD.
#
# Not find_package(Torch): the configuration of a CUDA build of torch insists on a CUDA toolkit of its own version,
# which the CPU operators do not need.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(NOT GRADFAST_TORCH_ROOT AND Python3_Interpreter_FOUND)
    execute_process(
        COMMAND "${Python3_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        OUTPUT_VARIABLE GRADFAST_TORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
# torch.utils.cmake_prefix_path is <root>/share/cmake; that of a libtorch archive is <root> itself.
set(prefixes ${CMAKE_PREFIX_PATH})
list(TRANSFORM prefixes APPEND "/../..")
set(hints ${CMAKE_PREFIX_PATH} ${prefixes} "${GRADFAST_TORCH_ROOT}")

find_path(GRADFAST_TORCH_INCLUDE torch/library.h HINTS ${hints} PATH_SUFFIXES include)
find_library(GRADFAST_TORCH_CPU torch_cpu HINTS ${hints} PATH_SUFFIXES lib)
find_library(GRADFAST_C10 c10 HINTS ${hints} PATH_SUFFIXES lib)
if(NOT GRADFAST_TORCH_INCLUDE OR NOT GRADFAST_TORCH_CPU OR NOT GRADFAST_C10)
    message(FATAL_ERROR "torch not found: activate the Python environment that has it, or pass "
                        "-DPython3_EXECUTABLE=... or -DCMAKE_PREFIX_PATH=<libtorch>")
endif()

set(version_header "${GRADFAST_TORCH_INCLUDE}/torch/headeronly/version.h")
if(NOT EXISTS "${version_header}")  # older torch
    set(version_header "${GRADFAST_TORCH_INCLUDE}/torch/csrc/api/include/torch/version.h")
endif()
file(STRINGS "${version_header}" numbers REGEX "define TORCH_VERSION_(MAJOR|MINOR) ")
string(REGEX REPLACE "[^0-9;]" "" numbers "${numbers}")
list(JOIN numbers "." GRADFAST_TORCH_VERSION)
if(GRADFAST_TORCH_VERSION VERSION_LESS 2.6)
    message(FATAL_ERROR "torch ${GRADFAST_TORCH_VERSION} is too old: wanted 2.6 or newer")
endif()
message(STATUS "torch ${GRADFAST_TORCH_VERSION}: ${GRADFAST_TORCH_CPU}")
if(GRADFAST_TORCH_VERSION VERSION_LESS 2.12)
    set(GRADFAST_CXX_STANDARD 17)
else()
    set(GRADFAST_CXX_STANDARD 20)
endif()

add_library(gradfast_torch INTERFACE)
target_include_directories(gradfast_torch SYSTEM INTERFACE
    "${GRADFAST_TORCH_INCLUDE}" "${GRADFAST_TORCH_INCLUDE}/torch/csrc/api/include")
target_link_libraries(gradfast_torch INTERFACE "${GRADFAST_TORCH_CPU}" "${GRADFAST_C10}")
if(NOT APPLE)
    # The OpenMP runtime of torch itself, so that there is one thread pool; what else its libraries need (CUDA's), they
    # find by their own run paths.
    get_filename_component(folder "${GRADFAST_TORCH_CPU}" DIRECTORY)
    file(GLOB runtime "${folder}/libgomp*.so*" "${folder}/../../torch.libs/libgomp*.so*")
    target_compile_options(gradfast_torch INTERFACE -fopenmp)
    target_link_options(gradfast_torch INTERFACE -Wl,--allow-shlib-undefined)
    if(runtime)
        list(GET runtime 0 runtime)
        target_link_libraries(gradfast_torch INTERFACE "${runtime}")
    else()
        target_link_options(gradfast_torch INTERFACE -fopenmp)
    endif()
endif()
