// Norms, dots and Grams of a convolution's weight gradient.
#include <ATen/Context.h>
#include <torch/library.h>

#include "../form_names.h"
#include "runtime.h"
#include "weight_gradient.h"

namespace gradfast::cuda {
namespace {

void set_extent(const char* op, const char* what, int32_t (&to)[3], const ConvShape::Extent& from) {
    for (int i = 0; i < 3; ++i) to[i] = narrow(op, what, from[i]);
}

// channels-last data [images, *spatial, channels] of which frames images make a sample.
void set_layout(const char* op, Operand& o, int64_t pixels, int64_t channels, const ConvShape& s) {
    o.pixel_stride = narrow(op, "the number of channels", channels * s.groups);
    o.group_stride = channels;
    o.frame_stride = pixels * channels * s.groups;
    o.sample_stride = o.frame_stride * s.frames;
}

WeightGradient weight_gradient(const char* op, const at::Tensor& x, const at::Tensor& g, const ConvShape& s) {
    // A channels-last tensor is already in this order: no copy.
    const auto channels_last_x = x.movedim(1, -1).contiguous(),
               channels_last_g = g.movedim(2, -1).contiguous();
    WeightGradient w;
    w.position_data = s.transposed ? channels_last_x : channels_last_g;
    w.window_data = s.transposed ? channels_last_g : channels_last_x;
    w.math = math_for(x.scalar_type(), at::globalContext().allowTF32CuDNN());
    w.size = contraction_size(s);

    w.positions.count = narrow(op, "the number of positions", s.positions());
    w.positions.frame = Divisor(std::max<int64_t>(1, s.positions_per_frame()));
    w.positions.plane = Divisor(std::max<int64_t>(1, s.position[1] * s.position[2]));
    w.positions.line = Divisor(std::max<int64_t>(1, s.position[2]));

    set_layout(op, w.position, s.positions_per_frame(), s.position_channels, s);
    w.position.width = narrow(op, "the number of channels", s.position_channels);
    set_layout(op, w.window, ConvShape::product(s.window), s.window_channels, s);
    w.window.width = narrow(op, "the width of a window", s.window_width());
    w.window.windowed = !(s.taps() == 1 && s.unit_stride() && s.padding == ConvShape::Extent{0, 0, 0});
    w.window.kernel_plane = Divisor(s.kernel[1] * s.kernel[2]);
    w.window.kernel_line = Divisor(s.kernel[2]);
    set_extent(op, "the extent of an image", w.window.extent, s.window);
    set_extent(op, "stride", w.window.stride, s.stride);
    set_extent(op, "padding", w.window.padding, s.padding);
    set_extent(op, "dilation", w.window.dilation, s.dilation);
    Operand& rowwise = s.transposed ? w.window : w.position;
    rowwise.row_stride = s.samples * rowwise.sample_stride;
    finish_operand(w.position, w.position_data, s.position_channels);
    finish_operand(w.window, w.window_data, s.window_channels);
    return w;
}

at::Tensor conv_sqnorm(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups, bool transposed, int64_t frames, c10::string_view form) {
    const char* op = "conv_sqnorm";
    const auto s = conv_shape(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    const auto chosen = conv_form(form, s);
    return sqnorm(op, weight_gradient(op, x, g, s), chosen);
}

at::Tensor conv_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref,
                    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                    at::IntArrayRef dilation, int64_t groups, bool transposed, int64_t frames) {
    const char* op = "conv_dot";
    const auto s = conv_shape(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    check_same(op, "x", x, "ref", ref);
    check_shape(op, "ref", ref, conv_weight_shape(s));
    return dot(op, weight_gradient(op, x, g, s), ref.movedim(1, -1).contiguous());
}

std::tuple<at::Tensor, at::Tensor> conv_sqnorm_dot(const at::Tensor& x, const at::Tensor& g,
                                                   const at::Tensor& ref, at::IntArrayRef kernel_size,
                                                   at::IntArrayRef stride, at::IntArrayRef padding,
                                                   at::IntArrayRef dilation, int64_t groups, bool transposed,
                                                   int64_t frames) {
    const char* op = "conv_sqnorm_dot";
    const auto s = conv_shape(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    check_same(op, "x", x, "ref", ref);
    check_shape(op, "ref", ref, conv_weight_shape(s));
    const WeightGradient w = weight_gradient(op, x, g, s);
    return {sqnorm(op, w, std::nullopt), dot(op, w, ref.movedim(1, -1).contiguous())};
}

at::Tensor conv_gram(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     int64_t groups, bool transposed, int64_t frames) {
    const char* op = "conv_gram";
    const auto s = conv_shape(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    return gram(op, weight_gradient(op, x, g, s));
}

}  // namespace

GRADFAST_CUDA_IMPL(m) {
    m.impl("conv_sqnorm", conv_sqnorm);
    m.impl("conv_dot", conv_dot);
    m.impl("conv_sqnorm_dot", conv_sqnorm_dot);
    m.impl("conv_gram", conv_gram);
}

}  // namespace gradfast::cuda
