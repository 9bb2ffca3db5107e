// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "../form_names.h"
#include "output_dot.h"
#include "weight_gram.h"
#include "weight_norm.h"

namespace gradfast::cpu {
namespace {

// [row, sample, position, channel] as an image one line long.
Image image_of_matrix(const at::Tensor& t, int64_t row_stride) {
    const int64_t d = t.dim();
    return {static_cast<const char*>(t.const_data_ptr()),
            storage_of(t.scalar_type()),
            row_stride,
            t.stride(d - 3),
            t.stride(d - 1),
            {0, 0, t.stride(d - 2)}};
}

at::Tensor zeros_for(const at::Tensor& x, at::IntArrayRef shape) {
    return at::zeros(shape, x.options().dtype(accumulate_dtype(x.scalar_type())));
}

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view form) {
    check_linear("linear_sqnorm", x, g);
    const ConvShape s = linear_shape(x, g);
    const Form chosen = linear_form(form, s.positions()).value_or(cheapest_form(s));
    auto out = zeros_for(x, {s.samples, s.rows});
    if (x.numel() == 0 || g.numel() == 0) return out;
    weight_sqnorm(s, image_of_matrix(x, 0), image_of_matrix(g, g.stride(0)), chosen, out.mutable_data_ptr());
    return out;
}

at::Tensor linear_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref) {
    check_linear("linear_dot", x, g);
    check_same("linear_dot", "x", x, "ref", ref);
    check_shape("linear_dot", "ref", ref, {g.size(3), x.size(2)});
    if (x.numel() == 0 || g.numel() == 0) return zeros_for(x, {g.size(1), g.size(0)});
    const auto type = accumulate_dtype(x.scalar_type());
    return output_dot(at::matmul(x.to(type), ref.to(type).t()), g, 1);
}

std::tuple<at::Tensor, at::Tensor> linear_sqnorm_dot(const at::Tensor& x, const at::Tensor& g,
                                                     const at::Tensor& ref) {
    const char* op = "linear_sqnorm_dot";
    check_linear(op, x, g);
    check_same(op, "x", x, "ref", ref);
    check_shape(op, "ref", ref, {g.size(3), x.size(2)});
    const ConvShape s = linear_shape(x, g);
    const Form form = cheapest_form(s);
    if (!forms_elements(s, form) || x.numel() == 0 || g.numel() == 0)
        return {linear_sqnorm(x, g, "auto"), linear_dot(x, g, ref)};
    auto norms = zeros_for(x, {s.samples, s.rows}), dots = at::zeros_like(norms);
    const auto dense = ref.to(norms.scalar_type()).contiguous();
    weight_sqnorm_and_dot(s, image_of_matrix(x, 0), image_of_matrix(g, g.stride(0)), form,
                          dense.const_data_ptr(), norms.mutable_data_ptr(), dots.mutable_data_ptr());
    return {norms, dots};
}

at::Tensor linear_gram(const at::Tensor& x, const at::Tensor& g) {
    check_linear("linear_gram", x, g);
    const ConvShape s = linear_shape(x, g);
    auto out = zeros_for(x, {s.samples, s.rows, s.rows});
    if (x.numel() == 0 || g.numel() == 0) return out;
    weight_gram(s, image_of_matrix(x, 0), image_of_matrix(g, g.stride(0)), out.mutable_data_ptr());
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("linear_sqnorm", linear_sqnorm);
    m.impl("linear_dot", linear_dot);
    m.impl("linear_sqnorm_dot", linear_sqnorm_dot);
    m.impl("linear_gram", linear_gram);
}

}  // namespace gradfast::cpu
