# gradfast_simd_objects(target sources...): adds the sources to the target, compiled once per instruction set into
# the namespace gradfast::cpu::<name>. build_support/flags.py holds the same table.
include(CheckCXXSourceCompiles)

set(GRADFAST_FLAGS_baseline "")
set(GRADFAST_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(GRADFAST_FLAGS_avx512 ${GRADFAST_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
set(GRADFAST_FLAGS_avx512bf16 ${GRADFAST_FLAGS_avx512} -mavx512bf16)

set(GRADFAST_ISAS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    set(CMAKE_REQUIRED_FLAGS -mavx512bf16)
    check_cxx_source_compiles("int main() { return __builtin_cpu_supports(\"avx512bf16\"); }" GRADFAST_HAS_X86_ISAS)
    unset(CMAKE_REQUIRED_FLAGS)
    if(GRADFAST_HAS_X86_ISAS)
        list(APPEND GRADFAST_ISAS avx2 avx512 avx512bf16)
    endif()
endif()

function(gradfast_simd_objects target)
    list(LENGTH GRADFAST_ISAS count)
    if(count GREATER 1)
        target_compile_definitions(${target} PUBLIC GRADFAST_X86_ISAS)
    endif()
    foreach(isa IN LISTS GRADFAST_ISAS)
        add_library(${target}_${isa} OBJECT ${ARGN})
        target_include_directories(${target}_${isa} PRIVATE "${PROJECT_SOURCE_DIR}/csrc")
        target_compile_definitions(${target}_${isa} PRIVATE GRADFAST_ARCH=${isa}
            $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>)
        target_compile_options(${target}_${isa} PRIVATE -fopenmp-simd -ffp-contract=fast ${GRADFAST_FLAGS_${isa}})
        target_sources(${target} INTERFACE $<TARGET_OBJECTS:${target}_${isa}>)
    endforeach()
endfunction()
