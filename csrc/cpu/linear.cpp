// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

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

Form linear_form(const ConvShape& s, c10::string_view name) {
    if (name == "auto") return cheapest_form(s);
    for (const Form form : {Form::direct, Form::gram, Form::rank_one})
        if (name == form_name(form)) {
            TORCH_CHECK_VALUE(form_applies(form, s),
                              "linear_sqnorm: form is \"rank_one\" for T = ", s.positions(),
                              "; wanted T = 1");
            return form;
        }
    TORCH_CHECK_VALUE(false, "linear_sqnorm: form is \"", name, "\"; wanted auto, direct, gram or rank_one");
}

at::Tensor zeros_for(const at::Tensor& x, at::IntArrayRef shape) {
    return at::zeros(shape, x.options().dtype(accumulate_dtype(x.scalar_type())));
}

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view form) {
    check_linear("linear_sqnorm", x, g);
    const ConvShape s = linear_shape(x, g);
    const Form chosen = linear_form(s, form);
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
    m.impl("linear_gram", linear_gram);
}

}  // namespace gradfast::cpu
