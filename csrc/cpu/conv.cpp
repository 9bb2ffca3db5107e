// Norms, dots and Grams of a convolution's weight gradient.
#include <ATen/ops/convolution.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "../form_names.h"
#include "output_dot.h"
#include "weight_gram.h"
#include "weight_norm.h"

namespace gradfast::cpu {
namespace {

at::Tensor zeros_for(const at::Tensor& x, at::IntArrayRef shape) {
    return at::zeros(shape, x.options().dtype(accumulate_dtype(x.scalar_type())));
}

at::Tensor conv_sqnorm(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups, bool transposed, int64_t frames, c10::string_view form) {
    const ConvShape s =
        conv_shape("conv_sqnorm", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    const Form chosen = conv_form(form, s).value_or(cheapest_form(s));
    auto out = zeros_for(x, {s.samples, s.rows});
    if (x.numel() == 0 || g.numel() == 0) return out;
    weight_sqnorm(s, Image::of_input(x), Image::of_cotangent(g), chosen, out.mutable_data_ptr());
    return out;
}

// <g, T(x)> = <x, T'(g)>: with a reference for its weight, a transposed convolution's adjoint is a
// convolution of the same weight. An output padding of a stride or more leaves positions that T does not
// read.
at::Tensor transposed_adjoint(const ConvShape& s, const at::Tensor& g, const at::Tensor& ref,
                              at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                              int64_t groups) {
    auto y = at::convolution(g, ref, {}, stride, padding, dilation, /*transposed=*/false,
                             std::vector<int64_t>(stride.size(), 0), groups);
    for (int64_t i = 0; i < s.spatial_dims; ++i) y = y.narrow(2 + i, 0, s.position[3 - s.spatial_dims + i]);
    return y;
}

at::Tensor conv_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref,
                    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                    at::IntArrayRef dilation, int64_t groups, bool transposed, int64_t frames) {
    const ConvShape s =
        conv_shape("conv_dot", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    check_same("conv_dot", "x", x, "ref", ref);
    check_shape("conv_dot", "ref", ref, conv_weight_shape(s));
    if (x.numel() == 0 || g.numel() == 0) return zeros_for(x, {s.samples, s.rows});
    const auto type = accumulate_dtype(x.scalar_type());
    // One row: the adjoint's sums fall on the smaller image, and libraries convolve faster than they
    // transpose.
    if (transposed && s.rows == 1)
        return output_dot(
            transposed_adjoint(s, g[0].to(type), ref.to(type), stride, padding, dilation, groups),
            x.unsqueeze(0), frames);
    const auto y = at::convolution(x.to(type), ref.to(type), {}, stride, padding, dilation, transposed,
                                   conv_output_padding(s), groups);
    return output_dot(y, g, frames);
}

std::tuple<at::Tensor, at::Tensor> conv_sqnorm_dot(const at::Tensor& x, const at::Tensor& g,
                                                   const at::Tensor& ref, at::IntArrayRef kernel_size,
                                                   at::IntArrayRef stride, at::IntArrayRef padding,
                                                   at::IntArrayRef dilation, int64_t groups, bool transposed,
                                                   int64_t frames) {
    const char* op = "conv_sqnorm_dot";
    const ConvShape s =
        conv_shape(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    check_same(op, "x", x, "ref", ref);
    check_shape(op, "ref", ref, conv_weight_shape(s));
    const Form form = cheapest_form(s);
    if (!forms_elements(s, form) || x.numel() == 0 || g.numel() == 0)
        return {conv_sqnorm(x, g, kernel_size, stride, padding, dilation, groups, transposed, frames, "auto"),
                conv_dot(x, g, ref, kernel_size, stride, padding, dilation, groups, transposed, frames)};
    auto norms = zeros_for(x, {s.samples, s.rows}), dots = at::zeros_like(norms);
    // [channels, taps, channels], the order in which the kernels go through a gradient.
    const auto by_taps = ref.flatten(2).transpose(1, 2).to(norms.scalar_type()).contiguous();
    weight_sqnorm_and_dot(s, Image::of_input(x), Image::of_cotangent(g), form, by_taps.const_data_ptr(),
                          norms.mutable_data_ptr(), dots.mutable_data_ptr());
    return {norms, dots};
}

at::Tensor conv_gram(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     int64_t groups, bool transposed, int64_t frames) {
    const ConvShape s =
        conv_shape("conv_gram", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    auto out = zeros_for(x, {s.samples, s.rows, s.rows});
    if (x.numel() == 0 || g.numel() == 0) return out;
    weight_gram(s, Image::of_input(x), Image::of_cotangent(g), out.mutable_data_ptr());
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("conv_sqnorm", conv_sqnorm);
    m.impl("conv_dot", conv_dot);
    m.impl("conv_sqnorm_dot", conv_sqnorm_dot);
    m.impl("conv_gram", conv_gram);
}

}  // namespace gradfast::cpu
