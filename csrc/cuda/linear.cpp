// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "channel_sums.h"
#include "runtime.h"
#include "weight_gradient.h"

namespace gradfast::cuda {
namespace {

WeightGradient weight_gradient(const char* op, const at::Tensor& x, const at::Tensor& g) {
    check_operand(op, "x", x, 3);
    check_operand(op, "g", g, 4);
    check_same(op, "x", x, "g", g);
    TORCH_CHECK_VALUE(g.size(1) == x.size(0) && g.size(2) == x.size(1), op, ": g has shape ", g.sizes(),
                      "; wanted [C, B, T, O] with B and T of x ", x.sizes());
    const int64_t samples = x.size(0), positions = x.size(1), inputs = x.size(2), outputs = g.size(3);
    WeightGradient w;
    w.window_data = x.contiguous();
    w.position_data = g.contiguous();
    w.math = math_for(x.scalar_type(), at::globalContext().allowTF32CuBLAS());
    w.size = {g.size(0), samples, 1, positions, outputs, inputs, 1, positions, true, false};
    w.positions.count = narrow(op, "T", positions);
    w.position.row_stride = samples * positions * outputs;
    w.position.sample_stride = positions * outputs;
    w.position.pixel_stride = w.position.width = narrow(op, "O", outputs);
    w.window.sample_stride = positions * inputs;
    w.window.pixel_stride = w.window.width = narrow(op, "D", inputs);
    finish_operand(w.position, w.position_data, outputs);
    finish_operand(w.window, w.window_data, inputs);
    return w;
}

std::optional<Form> linear_form(c10::string_view name, const at::Tensor& x) {
    if (name == "auto") return std::nullopt;
    for (const Form form : {Form::direct, Form::gram, Form::rank_one})
        if (name == form_name(form)) {
            TORCH_CHECK_VALUE(form != Form::rank_one || x.size(1) == 1,
                              "linear_sqnorm: form is \"rank_one\" for T = ", x.size(1), "; wanted T = 1");
            return form;
        }
    TORCH_CHECK_VALUE(false, "linear_sqnorm: form is \"", name, "\"; wanted auto, direct, gram or rank_one");
}

// ||g||^2 ||x||^2
at::Tensor rank_one(const WeightGradient& w) {
    const auto& x = w.window_data;
    auto out = at::empty({w.size.samples, w.size.rows}, x.options().dtype(accumulate_dtype(x.scalar_type())));
    const DeviceScope device(x);
    RankOneParams p;
    p.x = x.data_ptr();
    p.g = w.position_data.data_ptr();
    p.out = out.data_ptr();
    p.samples = w.size.samples;
    p.inputs = w.size.window_width;
    p.outputs = w.size.position_channels;
    p.rows = static_cast<int32_t>(w.size.rows);
    p.row_blocks = (p.rows + kRankOneRows - 1) / kRankOneRows;
    check(launch_rank_one(element_type(x.scalar_type()), p, device.stream()));
    return out;
}

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view name) {
    const WeightGradient w = weight_gradient("linear_sqnorm", x, g);
    const auto form = linear_form(name, x);
    const bool is_rank_one = form.value_or(choose_form(w.size, w.math)) == Form::rank_one;
    return is_rank_one && !w.empty() ? rank_one(w) : sqnorm("linear_sqnorm", w, form);
}

at::Tensor linear_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref) {
    const WeightGradient w = weight_gradient("linear_dot", x, g);
    check_same("linear_dot", "x", x, "ref", ref);
    check_shape("linear_dot", "ref", ref, {g.size(3), x.size(2)});
    return dot("linear_dot", w, ref.contiguous());
}

at::Tensor linear_gram(const at::Tensor& x, const at::Tensor& g) {
    return gram("linear_gram", weight_gradient("linear_gram", x, g));
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("linear_sqnorm", linear_sqnorm);
    m.impl("linear_dot", linear_dot);
    m.impl("linear_gram", linear_gram);
}

}  // namespace gradfast::cuda
