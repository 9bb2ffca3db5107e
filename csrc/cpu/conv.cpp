// Norms, dots and Grams of a convolution's weight gradient.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "weight_norm.h"

namespace gradfast::cpu {
namespace {

// [T, channels * taps] of one sample and group: image [F, channels, *spatial].
at::Tensor unfold(const at::Tensor& image, const ConvShape& s) {
    std::vector<int64_t> pad, size{s.frames}, stride;
    for (int i = 2; i >= 0; --i) {
        const int64_t reach =
            (s.position[i] - 1) * s.stride[i] - s.padding[i] + s.dilation[i] * (s.kernel[i] - 1) + 1;
        pad.push_back(s.padding[i]);
        pad.push_back(std::max<int64_t>(0, reach - s.window[i]));
    }
    const auto padded = at::constant_pad_nd(
        image.reshape({s.frames, s.window_channels, s.window[0], s.window[1], s.window[2]}), pad, 0);
    stride.push_back(padded.stride(0));
    for (int i = 0; i < 3; ++i)
        size.push_back(s.position[i]), stride.push_back(padded.stride(2 + i) * s.stride[i]);
    size.push_back(s.window_channels), stride.push_back(padded.stride(1));
    for (int i = 0; i < 3; ++i)
        size.push_back(s.kernel[i]), stride.push_back(padded.stride(2 + i) * s.dilation[i]);
    return padded.as_strided(size, stride).reshape({s.positions(), s.window_width()});
}

// [C, position_channels, window_width] of one sample and group.
at::Tensor gradients(const at::Tensor& x, const at::Tensor& g, const ConvShape& s) {
    const auto acc = accumulate_dtype(x.scalar_type());
    const auto positions = [&](const at::Tensor& t) {
        return t.to(acc)
            .reshape({s.frames, s.position_channels, -1})
            .transpose(0, 1)
            .reshape({s.position_channels, -1});
    };
    std::vector<at::Tensor> rows;
    for (int64_t c = 0; c < s.rows; ++c)
        rows.push_back(s.transposed ? at::mm(positions(x), unfold(g[c].to(acc), s))
                                    : at::mm(positions(g[c]), unfold(x.to(acc), s)));
    return at::stack(rows);
}

template <class F>
void each_sample_and_group(const at::Tensor& x, const at::Tensor& g, const ConvShape& s, F f) {
    if (s.rows == 0 || s.positions() == 0) return;
    for (int64_t b = 0; b < s.samples; ++b)
        for (int64_t k = 0; k < s.groups; ++k) {
            const int64_t cx = x.size(1) / s.groups, cg = g.size(2) / s.groups;
            f(b, gradients(x.narrow(0, b * s.frames, s.frames).narrow(1, k * cx, cx),
                           g.narrow(1, b * s.frames, s.frames).narrow(2, k * cg, cg), s));
        }
}

Form conv_form(const ConvShape& s, c10::string_view name) {
    if (name == "auto") return cheapest_form(s);
    for (const Form form : {Form::direct, Form::gram, Form::pixel_gram})
        if (name == form_name(form)) {
            TORCH_CHECK_VALUE(form_applies(form, s), "conv_sqnorm: form is \"pixel_gram\" for a ",
                              s.transposed ? "transposed convolution" : "convolution with stride",
                              "; wanted auto, direct or gram");
            return form;
        }
    TORCH_CHECK_VALUE(false, "conv_sqnorm: form is \"", name, "\"; wanted auto, direct, gram or pixel_gram");
}

at::Tensor conv_sqnorm(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                       int64_t groups, bool transposed, int64_t frames, c10::string_view form) {
    const auto s =
        conv_shape("conv_sqnorm", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    auto out = at::zeros({s.samples, s.rows}, x.options().dtype(accumulate_dtype(x.scalar_type())));
    if (out.numel() == 0 || x.numel() == 0 || g.numel() == 0) return out;
    weight_sqnorm(s, Image::of_input(x), Image::of_cotangent(g), conv_form(s, form), out.mutable_data_ptr());
    return out;
}

at::Tensor conv_dot(const at::Tensor& x, const at::Tensor& g, const at::Tensor& ref,
                    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                    at::IntArrayRef dilation, int64_t groups, bool transposed, int64_t frames) {
    const auto s =
        conv_shape("conv_dot", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    check_same("conv_dot", "x", x, "ref", ref);
    check_shape("conv_dot", "ref", ref, conv_weight_shape(s));
    const auto acc = accumulate_dtype(x.scalar_type());
    auto out = at::zeros({s.rows, s.samples}, x.options().dtype(acc));
    if (g.numel() == 0 || x.numel() == 0) return out.t().contiguous();
    // <gradient, ref> = <g, what the layer gives with ref as its weight>
    const auto p = at::convolution(x.to(acc), ref.to(acc), {}, stride, padding, dilation, transposed,
                                   conv_output_padding(s), groups);
    return (g.to(acc) * p).reshape({s.rows, s.samples, -1}).sum(-1).t().contiguous();
}

at::Tensor conv_gram(const at::Tensor& x, const at::Tensor& g, at::IntArrayRef kernel_size,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     int64_t groups, bool transposed, int64_t frames) {
    const auto s =
        conv_shape("conv_gram", x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    auto out = at::zeros({s.samples, s.rows, s.rows}, x.options().dtype(accumulate_dtype(x.scalar_type())));
    each_sample_and_group(x, g, s, [&](int64_t b, const at::Tensor& grads) {
        out[b] += at::mm(grads.flatten(1), grads.flatten(1).t());
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("conv_sqnorm", conv_sqnorm);
    m.impl("conv_dot", conv_dot);
    m.impl("conv_gram", conv_gram);
}

}  // namespace gradfast::cpu
