// The arguments of gate_backward, checked for every implementation.
#pragma once

#include <optional>

#include "checks.h"

namespace gradfast {

// g and other [R, B, T, O], gate and xs [B, T, O], means, rstds and factors [O]; at most so many xs.
inline void check_gate(const at::Tensor& g, const std::optional<at::Tensor>& gate, at::TensorList xs,
                       at::TensorList means, at::TensorList rstds, at::TensorList factors,
                       const std::optional<at::Tensor>& other, size_t most) {
    const char* op = "gate_backward";
    check_operand(op, "g", g, 4);
    TORCH_CHECK_VALUE(xs.size() <= most && means.size() == xs.size() && rstds.size() == xs.size() &&
                          (factors.empty() || factors.size() == xs.size()),
                      op, ": got ", xs.size(), " xs, ", means.size(), " means, ", rstds.size(), " rstds and ",
                      factors.size(), " factors; wanted equally many, at most ", most);
    const auto operand = [&](const char* name, const at::Tensor& t, at::IntArrayRef shape) {
        check_same(op, "g", g, name, t);
        check_shape(op, name, t, shape);
    };
    if (other) operand("other", *other, g.sizes());
    if (gate) operand("gate", *gate, g.sizes().slice(1));
    for (size_t k = 0; k < xs.size(); ++k) {
        operand("xs", xs[k], g.sizes().slice(1));
        check_shape(op, "means", means[k], {g.size(3)});
        check_shape(op, "rstds", rstds[k], {g.size(3)});
        if (!factors.empty()) check_shape(op, "factors", factors[k], {g.size(3)});
    }
}

}  // namespace gradfast
