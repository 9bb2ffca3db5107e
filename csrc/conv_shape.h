// The geometry of one convolution's gradient, as plain numbers: what lies between a binding and its kernel.
#pragma once

#include <array>

#include "checks.h"

namespace gradfast {

// One to three spatial dimensions are held as three; missing leading ones have extent 1.
//
// The gradient of one sample, row and group is P' U, where P [T, position_channels] is the tensor whose
// positions are summed over and U [T, taps * window_channels] the windows of the other one. A convolution has
// P = g and U = x unfolded; a transposed convolution has P = x and U = g unfolded. Position t meets window
// pixel t * stride - padding + tap * dilation.
struct ConvShape {
    using Extent = std::array<int64_t, 3>;

    int64_t spatial_dims;
    int64_t rows;     // C
    int64_t samples;  // B
    int64_t frames;   // images that make one sample
    int64_t groups;
    int64_t position_channels;  // per group
    int64_t window_channels;    // per group
    Extent position;            // spatial extent of P
    Extent window;              // spatial extent of the tensor that is unfolded
    Extent kernel, stride, padding, dilation;
    bool transposed;

    static int64_t product(const Extent& e) { return e[0] * e[1] * e[2]; }
    int64_t taps() const { return product(kernel); }
    int64_t positions_per_frame() const { return product(position); }
    int64_t positions() const { return frames * positions_per_frame(); }  // T
    int64_t window_width() const { return window_channels * taps(); }
    bool unit_stride() const { return product(stride) == 1; }
    // Every window is one pixel, and the pixels are the positions.
    bool pointwise() const { return taps() == 1 && unit_stride() && unpadded(); }
    bool unpadded() const { return padding[0] == 0 && padding[1] == 0 && padding[2] == 0; }
};

struct ConvArguments {
    at::IntArrayRef kernel_size, stride, padding, dilation;
    int64_t groups;
    bool transposed;
    int64_t frames;
};

namespace detail {

inline ConvShape::Extent extent(const char* op, const char* name, at::IntArrayRef v, int64_t dims,
                                int64_t missing, int64_t least) {
    TORCH_CHECK_VALUE(static_cast<int64_t>(v.size()) == dims, op, ": ", name, " has ", v.size(),
                      " entries; wanted ", dims, ", one for each spatial dimension of x");
    ConvShape::Extent e{missing, missing, missing};
    for (int64_t i = 0; i < dims; ++i) {
        TORCH_CHECK_VALUE(v[i] >= least, op, ": ", name, " is ", v, "; wanted every entry >= ", least);
        e[3 - dims + i] = v[i];
    }
    return e;
}

inline ConvShape::Extent spatial_extent(const at::Tensor& t, int64_t dims) {
    ConvShape::Extent e{1, 1, 1};
    for (int64_t i = 0; i < dims; ++i) e[3 - dims + i] = t.size(t.dim() - dims + i);
    return e;
}

}  // namespace detail

// Checks x [B * F, Cin, *in] and g [C, B * F, Cout, *out] against the arguments of the convolution.
inline ConvShape conv_shape(const char* op, const at::Tensor& x, const at::Tensor& g,
                            const ConvArguments& a) {
    const int64_t dims = x.dim() - 2;
    TORCH_CHECK_VALUE(dims >= 1 && dims <= 3, op, ": x has shape ", x.sizes(),
                      "; wanted [B * frames, channels, *spatial] with 1 to 3 spatial dimensions");
    check_operand(op, "x", x, dims + 2);
    check_operand(op, "g", g, dims + 3);
    check_same(op, "x", x, "g", g);
    TORCH_CHECK_VALUE(a.groups >= 1, op, ": groups is ", a.groups, "; wanted at least 1");
    TORCH_CHECK_VALUE(a.frames >= 1, op, ": frames is ", a.frames, "; wanted at least 1");
    TORCH_CHECK_VALUE(g.size(1) == x.size(0), op, ": g has ", g.size(1), " images (dim 1); wanted ",
                      x.size(0), ", as dim 0 of x");
    TORCH_CHECK_VALUE(x.size(0) % a.frames == 0, op, ": x has ", x.size(0),
                      " images; wanted a multiple of frames = ", a.frames);
    TORCH_CHECK_VALUE(x.size(1) % a.groups == 0, op, ": x has ", x.size(1),
                      " channels; wanted a multiple of groups = ", a.groups);
    TORCH_CHECK_VALUE(g.size(2) % a.groups == 0, op, ": g has ", g.size(2),
                      " channels; wanted a multiple of groups = ", a.groups);

    ConvShape s;
    s.spatial_dims = dims;
    s.rows = g.size(0);
    s.samples = x.size(0) / a.frames;
    s.frames = a.frames;
    s.groups = a.groups;
    s.transposed = a.transposed;
    const int64_t x_channels = x.size(1) / a.groups;
    const int64_t g_channels = g.size(2) / a.groups;
    s.position_channels = a.transposed ? x_channels : g_channels;
    s.window_channels = a.transposed ? g_channels : x_channels;
    s.position = detail::spatial_extent(a.transposed ? x : g, dims);
    s.window = detail::spatial_extent(a.transposed ? g : x, dims);
    s.kernel = detail::extent(op, "kernel_size", a.kernel_size, dims, 1, 1);
    s.stride = detail::extent(op, "stride", a.stride, dims, 1, 1);
    s.padding = detail::extent(op, "padding", a.padding, dims, 0, 0);
    s.dilation = detail::extent(op, "dilation", a.dilation, dims, 1, 1);

    for (int64_t i = 3 - dims; i < 3; ++i) {
        const int64_t span = s.dilation[i] * (s.kernel[i] - 1) + 1;
        if (a.transposed) {
            const int64_t least = (s.position[i] - 1) * s.stride[i] - 2 * s.padding[i] + span;
            const int64_t most = least + std::max(s.stride[i], s.dilation[i]) - 1;  // least + output_padding
            TORCH_CHECK_VALUE(s.position[i] == 0 || (s.window[i] >= least && s.window[i] <= most), op,
                              ": g has extent ", s.window[i], " in spatial dimension ", i - (3 - dims),
                              "; wanted ", least, " to ", most, " for this transposed convolution of x ",
                              x.sizes());
        } else {
            const int64_t room = s.window[i] + 2 * s.padding[i] - span;
            const int64_t wanted = room < 0 ? 0 : room / s.stride[i] + 1;
            TORCH_CHECK_VALUE(s.position[i] == wanted, op, ": g has extent ", s.position[i],
                              " in spatial dimension ", i - (3 - dims), "; wanted ", wanted,
                              " for this convolution of x ", x.sizes());
        }
    }
    return s;
}

// A linear layer, x [B, T, D] and g [C, B, T, O], is a convolution of extent 1 along its positions.
inline ConvShape linear_shape(const at::Tensor& x, const at::Tensor& g) {
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

// The shape of the weight that ref must have.
inline std::vector<int64_t> conv_weight_shape(const ConvShape& s) {
    std::vector<int64_t> shape{s.position_channels * s.groups, s.window_channels};
    for (int64_t i = 3 - s.spatial_dims; i < 3; ++i) shape.push_back(s.kernel[i]);
    return shape;
}

// How much longer the transposed convolution's output is than its shortest.
inline std::vector<int64_t> conv_output_padding(const ConvShape& s) {
    std::vector<int64_t> extra;
    for (int64_t i = 3 - s.spatial_dims; i < 3; ++i) {
        const int64_t shortest =
            (s.position[i] - 1) * s.stride[i] - 2 * s.padding[i] + s.dilation[i] * (s.kernel[i] - 1) + 1;
        extra.push_back(s.transposed ? s.window[i] - shortest : 0);
    }
    return extra;
}

}  // namespace gradfast
