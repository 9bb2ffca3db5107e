// Argument checks shared by every implementation. Messages name the argument, what came and what was wanted.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <string>

namespace gradfast {

inline bool is_operand_dtype(at::ScalarType t) {
    return t == at::kFloat || t == at::kDouble || t == at::kBFloat16 || t == at::kHalf;
}

// Results and accumulators: float64 for float64 operands, float32 for every other.
inline at::ScalarType accumulate_dtype(at::ScalarType t) {
    return t == at::kDouble ? at::kDouble : at::kFloat;
}

inline void check_operand(const char* op, const char* name, const at::Tensor& t, int64_t dim) {
    TORCH_CHECK_VALUE(t.dim() == dim, op, ": ", name, " has shape ", t.sizes(), "; wanted ", dim,
                      " dimensions");
    TORCH_CHECK_TYPE(is_operand_dtype(t.scalar_type()), op, ": ", name, " has dtype ", t.scalar_type(),
                     "; wanted float32, float64, bfloat16 or float16");
}

// x and g (or g and ref) must agree in dtype and device.
inline void check_same(const char* op, const char* a_name, const at::Tensor& a, const char* b_name,
                       const at::Tensor& b) {
    TORCH_CHECK_TYPE(a.scalar_type() == b.scalar_type(), op, ": ", b_name, " has dtype ", b.scalar_type(),
                     "; wanted ", a.scalar_type(), ", as ", a_name);
    TORCH_CHECK_VALUE(a.device() == b.device(), op, ": ", b_name, " is on ", b.device(), "; wanted ",
                      a.device(), ", as ", a_name);
}

inline void check_shape(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef wanted) {
    TORCH_CHECK_VALUE(t.sizes() == wanted, op, ": ", name, " has shape ", t.sizes(), "; wanted ", wanted);
}

}  // namespace gradfast
