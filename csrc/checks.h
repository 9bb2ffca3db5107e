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

// x [B, T, D] and g [C, B, T, O].
inline void check_linear(const char* op, const at::Tensor& x, const at::Tensor& g) {
    check_operand(op, "x", x, 3);
    check_operand(op, "g", g, 4);
    check_same(op, "x", x, "g", g);
    TORCH_CHECK_VALUE(g.size(1) == x.size(0) && g.size(2) == x.size(1), op, ": g has shape ", g.sizes(),
                      "; wanted [C, B, T, O] with B and T of x ", x.sizes());
}

// g [C, B, O, *].
inline void check_bias(const char* op, const at::Tensor& g) {
    TORCH_CHECK_VALUE(g.dim() >= 3, op, ": g has shape ", g.sizes(), "; wanted [C, B, O, *]");
    check_operand(op, "g", g, g.dim());
}

// xhat [B, O, *] and g [C, B, O, *].
inline void check_affine(const char* op, const at::Tensor& xhat, const at::Tensor& g) {
    TORCH_CHECK_VALUE(xhat.dim() >= 2, op, ": xhat has shape ", xhat.sizes(), "; wanted [B, O, *]");
    check_operand(op, "xhat", xhat, xhat.dim());
    check_operand(op, "g", g, xhat.dim() + 1);
    check_same(op, "xhat", xhat, "g", g);
    TORCH_CHECK_VALUE(g.sizes().slice(1) == xhat.sizes(), op, ": g has shape ", g.sizes(),
                      "; wanted [C, *] with xhat's ", xhat.sizes());
}

// The reference gradient of a bias or a scale, [O] for g [C, B, O, *].
inline void check_channel_ref(const char* op, const at::Tensor& g, const at::Tensor& ref) {
    check_same(op, "g", g, "ref", ref);
    check_shape(op, "ref", ref, {g.size(2)});
}

// indices [B, T] and g [C, B, T, D].
inline void check_embedding(const char* op, const at::Tensor& indices, const at::Tensor& g) {
    TORCH_CHECK_VALUE(indices.dim() == 2, op, ": indices has shape ", indices.sizes(), "; wanted [B, T]");
    TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong, op, ": indices has dtype ", indices.scalar_type(),
                     "; wanted int64");
    check_operand(op, "g", g, 4);
    TORCH_CHECK_VALUE(g.device() == indices.device(), op, ": g is on ", g.device(), "; wanted ",
                      indices.device(), ", as indices");
    TORCH_CHECK_VALUE(g.size(1) == indices.size(0) && g.size(2) == indices.size(1), op, ": g has shape ",
                      g.sizes(), "; wanted [C, B, T, D] with B and T of indices ", indices.sizes());
}

}  // namespace gradfast
