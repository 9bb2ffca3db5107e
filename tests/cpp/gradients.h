// Calls of operators through the dispatcher, and what they must give, written out in float64.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <limits>
#include <string>
#include <vector>

namespace gradients {

using Shape = std::vector<int64_t>;

// All results of an operator; arguments that are left out take their defaults.
template <class... Args>
torch::jit::Stack call_all(const char* op, Args... args) {
    const auto name = std::string("gradfast::") + op;
    const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
    torch::jit::Stack stack{c10::IValue(args)...};
    const auto& arguments = handle.schema().arguments();
    for (size_t i = stack.size(); i < arguments.size(); ++i) stack.push_back(*arguments[i].default_value());
    handle.callBoxed(stack);
    return stack;
}

template <class... Args>
at::Tensor call(const char* op, Args... args) {
    return call_all(op, args...)[0].toTensor();
}

// Normal numbers, rounded to dtype; `exact` is the same in float64.
inline at::Tensor random(at::IntArrayRef size, at::ScalarType dtype = at::kDouble) {
    return at::randn(size, at::kFloat).to(dtype);
}
inline at::Tensor exact(const at::Tensor& t) {
    return t.to(at::kDouble);
}

// The results of a family of operators, of its gradients [C, B, ...].
inline at::Tensor wanted_sqnorm(const at::Tensor& grads) {
    return grads.square().flatten(2).sum(2).t();
}
inline at::Tensor wanted_dot(const at::Tensor& grads, const at::Tensor& ref) {
    return (grads * ref).flatten(2).sum(2).t();
}
inline at::Tensor wanted_gram(const at::Tensor& grads) {
    const auto rows = grads.flatten(2).transpose(0, 1);
    return at::matmul(rows, rows.transpose(1, 2));
}

// The largest error, as a share of the largest value; infinite where shape or dtype are wrong.
inline double error(const at::Tensor& got, const at::Tensor& wanted, at::ScalarType operands = at::kDouble) {
    const auto dtype = operands == at::kDouble ? at::kDouble : at::kFloat;
    if (got.sizes() != wanted.sizes() || got.scalar_type() != dtype)
        return std::numeric_limits<double>::infinity();
    if (wanted.numel() == 0) return 0;
    return ((exact(got) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)).item<double>();
}

inline double tolerance(at::ScalarType operands) {
    return operands == at::kDouble ? 1e-12 : 1e-5;
}

constexpr at::ScalarType kDtypes[] = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf};

}  // namespace gradients
