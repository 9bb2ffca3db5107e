// Python bindings for what is not an operator: build information and the instruction set in use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "build_info.h"
#include "cpu/dispatch.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.doc() = "Compiled operators of gradfast.";
    m.def(
        "build_info",
        [] {
            const auto info = gradfast::build_info();
            pybind11::dict out;
            out["version"] = info.version;
            out["torch"] = info.torch;
            out["compiler"] = info.compiler;
            out["cxx_standard"] = info.cxx_standard;
            out["cxx_flags"] = info.cxx_flags;
            out["isas"] = info.isas;
            out["cuda_archs"] = info.cuda_archs;
            out["cuda"] = info.cuda;
            return out;
        },
        "What was built: version, torch, compiler, cxx_standard, cxx_flags, isas, cuda_archs, cuda.");
    m.def(
        "cpu_isa", [] { return std::string(gradfast::cpu::name(gradfast::cpu::isa())); },
        "The instruction set whose kernels run in this process.");
}
