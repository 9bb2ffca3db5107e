// Norms, dots and Grams of a linear layer's weight gradient, G[c, b]' X[b].
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../form_names.h"
#include "channel_sums.h"
#include "runtime.h"
#include "weight_gradient.h"

namespace gradfast::cuda {
namespace {

WeightGradient weight_gradient(const char* op, const at::Tensor& x, const at::Tensor& g) {
    check_linear(op, x, g);
    const int64_t samples = x.size(0), positions = x.size(1), inputs = x.size(2), outputs = g.size(3);
    WeightGradient w;
    w.window_data = x.contiguous();
    w.position_data = g.contiguous();
    w.math = math_for(x.scalar_type(), at::globalContext().allowTF32CuBLAS());
    w.size = contraction_size(linear_shape(x, g));
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

at::Tensor sqnorm_of(const char* op, const WeightGradient& w, std::optional<Form> form) {
    const bool is_rank_one = form.value_or(choose_form(w.size, w.math)) == Form::rank_one;
    return is_rank_one && !w.empty() ? rank_one(w) : sqnorm(op, w, form);
}

at::Tensor linear_sqnorm(const at::Tensor& x, const at::Tensor& g, c10::string_view name) {
    const char* op = "linear_sqnorm";
    return sqnorm_of(op, weight_gradient(op, x, g), linear_form(name, x.size(1)));
}

at::Tensor linear_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref) {
    const WeightGradient w = weight_gradient("linear_dot", x, g);
    check_same("linear_dot", "x", x, "ref", ref);
    check_shape("linear_dot", "ref", ref, {g.size(3), x.size(2)});
    return dot("linear_dot", w, ref.contiguous());
}

std::tuple<at::Tensor, at::Tensor> linear_sqnorm_dot(const at::Tensor& x, const at::Tensor& g,
                                                     const at::Tensor& ref) {
    const char* op = "linear_sqnorm_dot";
    const WeightGradient w = weight_gradient(op, x, g);
    check_same(op, "x", x, "ref", ref);
    check_shape(op, "ref", ref, {g.size(3), x.size(2)});
    return {sqnorm_of(op, w, std::nullopt), dot(op, w, ref.contiguous())};
}

at::Tensor linear_gram(const at::Tensor& x, const at::Tensor& g) {
    return gram("linear_gram", weight_gradient("linear_gram", x, g));
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("linear_sqnorm", linear_sqnorm);
    m.impl("linear_dot", linear_dot);
    m.impl("linear_sqnorm_dot", linear_sqnorm_dot);
    m.impl("linear_gram", linear_gram);
}

}  // namespace gradfast::cuda
