// The one list of gradfast's operators. CPU and CUDA implementations register themselves beside their
// kernels (csrc/cpu, csrc/cuda); fake kernels and documentation are in gradfast/ops.py.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <string>

#define GRADFAST_CONV_ARGS                                                                          \
    "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups=1, " \
    "bool transposed=False, SymInt frames=1"

TORCH_LIBRARY(gradfast, m) {
    m.def("linear_sqnorm(Tensor x, Tensor g, str form=\"auto\") -> Tensor");
    m.def("linear_dot(Tensor x, Tensor g, Tensor ref) -> Tensor");
    m.def("linear_sqnorm_dot(Tensor x, Tensor g, Tensor ref) -> (Tensor, Tensor)");
    m.def("linear_gram(Tensor x, Tensor g) -> Tensor");

    m.def("conv_sqnorm(Tensor x, Tensor g, " GRADFAST_CONV_ARGS ", str form=\"auto\") -> Tensor");
    m.def("conv_dot(Tensor x, Tensor g, Tensor ref, " GRADFAST_CONV_ARGS ") -> Tensor");
    m.def("conv_sqnorm_dot(Tensor x, Tensor g, Tensor ref, " GRADFAST_CONV_ARGS ") -> (Tensor, Tensor)");
    m.def("conv_gram(Tensor x, Tensor g, " GRADFAST_CONV_ARGS ") -> Tensor");

    m.def("bias_sqnorm(Tensor g) -> Tensor");
    m.def("bias_dot(Tensor g, Tensor ref) -> Tensor");
    m.def("bias_gram(Tensor g) -> Tensor");

    m.def("affine_sqnorm(Tensor xhat, Tensor g) -> Tensor");
    m.def("affine_dot(Tensor xhat, Tensor g, Tensor ref) -> Tensor");
    m.def("affine_gram(Tensor xhat, Tensor g) -> Tensor");

    m.def("embedding_sqnorm(Tensor indices, Tensor g, SymInt padding_idx=-1) -> Tensor");
    m.def("embedding_dot(Tensor indices, Tensor g, Tensor ref, SymInt padding_idx=-1) -> Tensor");
    m.def("embedding_gram(Tensor indices, Tensor g, SymInt padding_idx=-1) -> Tensor");

    // Fused steps of the backward plan.
    m.def(
        "gate_backward(Tensor g, Tensor? gate, bool multiply, Tensor[] xs, Tensor[] means, Tensor[] rstds, "
        "Tensor[] factors, bool plain, Tensor? other=None) -> (Tensor, Tensor, Tensor[])");
    m.def(
        "conv3x3_backward(Tensor g, Tensor weight, Tensor? x=None, Tensor? mask=None, Tensor? scale=None, "
        "bool need_input_grad=True, bool need_sqnorm=True) -> (Tensor, Tensor)");
    m.def(
        "conv_input_grad(Tensor g, Tensor weight, SymInt[] stride, SymInt[] padding, SymInt[] size) -> "
        "Tensor");
}

// No operator has a derivative: differentiating through one is refused, not answered with no gradient.
TORCH_LIBRARY_IMPL(gradfast, Autograd, m) {
    for (const char* family : {"linear", "conv", "bias", "affine", "embedding"})
        for (const char* kind : {"_sqnorm", "_dot", "_gram"})
            m.impl((std::string(family) + kind).c_str(), torch::autograd::autogradNotImplementedFallback());
    for (const char* name :
         {"linear_sqnorm_dot", "conv_sqnorm_dot", "gate_backward", "conv3x3_backward", "conv_input_grad"})
        m.impl(name, torch::autograd::autogradNotImplementedFallback());
}
