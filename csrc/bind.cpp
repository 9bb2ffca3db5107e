// Python bindings for what is not an operator: build information and the instruction set in use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "build_info.h"
#include "cpu/dispatch.h"
#include "cpu/host_memory.h"
#include "forms.h"

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
    m.def("keep_freed_memory", &gradfast::cpu::keep_freed_memory, pybind11::arg("bytes"),
          "Lets the C library keep so much freed memory; whether it does.");
    m.def("release_freed_memory", &gradfast::cpu::release_freed_memory,
          "Gives the pages of freed memory back to the system; whether it does.");
    m.def(
        "weight_norm_forms",
        [](const std::vector<int64_t>& x, const std::vector<int64_t>& g,
           const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
           const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
           bool transposed, int64_t frames) {
            const auto forms = gradfast::weight_norm_forms(x, g, kernel_size, stride, padding, dilation,
                                                           groups, transposed, frames);
            pybind11::dict flops;
            for (const auto& [form, count] : forms.flops) flops[form.c_str()] = count;
            return pybind11::make_tuple(forms.chosen, flops);
        },
        "The form that conv_sqnorm takes for these shapes and arguments, and one sample's flops for each "
        "form that applies.");
    m.def("weight_gram_flops", &gradfast::weight_gram_flops,
          "One sample's flops of conv_gram for these shapes and arguments.");
    m.def("cuda_weight_norm_form", &gradfast::cuda_weight_norm_form,
          "The form and the kernel that the CUDA operators take for these shapes and arguments, math (bf16, "
          "fp16, "
          "tf32, fp32, fp64) and number of multiprocessors.");
}
