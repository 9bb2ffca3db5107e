// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"

namespace gradfast::cpu {
namespace {

void check_linear(const char* op, const at::Tensor& x, const at::Tensor& g) {
    check_operand(op, "x", x, 3);
    check_operand(op, "g", g, 4);
    check_same(op, "x", x, "g", g);
    TORCH_CHECK_VALUE(g.size(1) == x.size(0) && g.size(2) == x.size(1), op, ": g has shape ", g.sizes(),
                      "; wanted [C, B, T, O] with B and T of x ", x.sizes());
}

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view form) {
    check_linear("linear_sqnorm", x, g);
    TORCH_CHECK_VALUE(
        form == "auto" || form == "direct" || form == "gram" || (form == "rank_one" && x.size(1) == 1),
        "linear_sqnorm: form is \"", form, "\"; wanted auto, direct or gram, or rank_one with T = 1");
    const auto acc = accumulate_dtype(x.scalar_type());
    auto out = at::zeros({g.size(0), x.size(0)}, x.options().dtype(acc));
    for (int64_t b = 0; b < x.size(0); ++b) {
        const auto xb = x[b].to(acc);
        const auto a = at::mm(xb, xb.t());
        for (int64_t c = 0; c < g.size(0); ++c) {
            const auto gb = g[c][b].to(acc);
            out[c][b] = form == "direct" ? at::mm(gb.t(), xb).square().sum()
                                         : (gb * at::mm(a, gb)).sum().clamp_min(0);
        }
    }
    return out.t().contiguous();
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
