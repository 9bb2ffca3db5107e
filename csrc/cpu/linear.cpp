// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/ATen.h>
#include <torch/library.h>

#include "weight_norm.h"

namespace gradfast::cpu {
namespace {

void check_linear(const char* op, const at::Tensor& x, const at::Tensor& g) {
    check_operand(op, "x", x, 3);
    check_operand(op, "g", g, 4);
    check_same(op, "x", x, "g", g);
    TORCH_CHECK_VALUE(g.size(1) == x.size(0) && g.size(2) == x.size(1), op, ": g has shape ", g.sizes(),
                      "; wanted [C, B, T, O] with B and T of x ", x.sizes());
}

// A linear layer is a convolution of extent 1 along its positions.
ConvShape linear_shape(const at::Tensor& x, const at::Tensor& g) {
    ConvShape s;
    s.spatial_dims = 1;
    s.rows = g.size(0);
    s.samples = x.size(0);
    s.frames = s.groups = 1;
    s.position_channels = g.size(3);
    s.window_channels = x.size(2);
    s.position = s.window = {1, 1, x.size(1)};
    s.kernel = s.stride = s.dilation = {1, 1, 1};
    s.padding = {0, 0, 0};
    s.transposed = false;
    return s;
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

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view form) {
    check_linear("linear_sqnorm", x, g);
    const ConvShape s = linear_shape(x, g);
    auto out = at::zeros({s.samples, s.rows}, x.options().dtype(accumulate_dtype(x.scalar_type())));
    const Form chosen = linear_form(s, form);
    if (out.numel() == 0 || x.numel() == 0 || g.numel() == 0) return out;
    const auto matrix = [](const at::Tensor& t, int64_t row_stride, int64_t first_dim) {
        return Image{static_cast<const char*>(t.const_data_ptr()),
                     storage_of(t.scalar_type()),
                     row_stride,
                     t.stride(first_dim),
                     t.stride(first_dim + 2),
                     {0, 0, t.stride(first_dim + 1)}};
    };
    weight_sqnorm(s, matrix(x, 0, 0), matrix(g, g.stride(0), 1), chosen, out.mutable_data_ptr());
    return out;
}

at::Tensor linear_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref) {
    check_linear("linear_dot", x, g);
    check_same("linear_dot", "x", x, "ref", ref);
    check_shape("linear_dot", "ref", ref, {g.size(3), x.size(2)});
    const auto acc = accumulate_dtype(x.scalar_type());
    const auto p = at::matmul(x.to(acc), ref.to(acc).t());
    return (g.to(acc) * p).sum({2, 3}).t().contiguous();
}

at::Tensor linear_gram(const at::Tensor& x, const at::Tensor& g) {
    check_linear("linear_gram", x, g);
    const auto acc = accumulate_dtype(x.scalar_type());
    auto out = at::zeros({x.size(0), g.size(0), g.size(0)}, x.options().dtype(acc));
    for (int64_t b = 0; b < x.size(0); ++b) {
        const auto xb = x[b].to(acc);
        const auto gb = g.select(1, b).to(acc);
        const auto h = at::matmul(at::mm(xb, xb.t()), gb);
        out[b] = at::mm(gb.flatten(1), h.flatten(1).t());
    }
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("linear_sqnorm", linear_sqnorm);
    m.impl("linear_dot", linear_dot);
    m.impl("linear_gram", linear_gram);
}

}  // namespace gradfast::cpu
