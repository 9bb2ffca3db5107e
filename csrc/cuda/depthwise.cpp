#include "depthwise.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "kernels/depthwise.h"

namespace gradfast::cuda {
namespace {

// Whether a thread can take two neighbouring channels, each a group of its own, in one access.
bool paired(const WeightGradient& w) {
    const int64_t bytes = 2 * static_cast<int64_t>(w.window_data.element_size());
    const auto aligned = [&](const Operand& op) {
        return op.pixel_stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(op.data) % bytes == 0;
    };
    return w.size.position_channels == 1 && w.size.window_width == w.size.taps && aligned(w.position) &&
           aligned(w.window);
}

}  // namespace

at::Tensor depthwise(const char* op, const WeightGradient& w, Reduction reduction,
                     const std::optional<at::Tensor>& weight) {
    const DeviceScope device(w.window_data);
    const auto type = element_type(w.window_data.scalar_type());
    const auto options = w.window_data.options().dtype(accumulate_dtype(w.window_data.scalar_type()));
    const int64_t rows = w.size.rows, samples = w.size.samples;
    const int64_t channels = w.size.groups * w.size.position_channels, columns = w.size.window_width;
    const bool pairs = paired(w);

    DepthwiseParams p;
    p.position = w.position;
    p.window = w.window;
    p.positions = w.positions;
    p.group_channels = Divisor(w.size.position_channels);
    p.rows = narrow(op, "the number of rows", rows);
    p.channels = narrow(op, "the number of channels", channels);
    p.columns = narrow(op, "the width of a window", columns);
    narrow(op, "the size of the weight", channels * columns);
    const DepthwiseExtent e = depthwise_extent(type, pairs, channels);
    p.row_blocks = static_cast<int32_t>(ceil_divide(rows, e.rows));
    p.channel_blocks = static_cast<int32_t>(ceil_divide(channels, e.channels));
    p.column_blocks = static_cast<int32_t>(ceil_divide(columns, e.columns));

    const int64_t gradient = rows * channels * columns * static_cast<int64_t>(options.dtype().itemsize());
    const int64_t at_once = std::max<int64_t>(1, std::min(samples, kScratchBytes / gradient));
    p.splits = static_cast<int32_t>(position_splits(
        w.size.positions, e.positions, at_once * p.row_blocks * p.channel_blocks * p.column_blocks,
        device.multiprocessors()));
    p.positions_per_split = ceil_divide(w.size.positions, p.splits);

    std::optional<at::Tensor> ref;
    if (weight) ref = weight->reshape({channels, columns}).t().contiguous().reshape({-1});
    const bool gram = reduction == Reduction::gram;
    const auto out = gram ? at::empty({samples, rows, rows}, options) : at::empty({samples, rows}, options);
    for (int64_t first = 0; first < samples; first += at_once) {
        p.samples = std::min(at_once, samples - first);
        const auto gradients = at::empty({p.splits, rows, p.samples, columns * channels}, options);
        p.gradients = gradients.data_ptr();
        p.position.data = advance(w.position.data, first * w.position.sample_stride, w.position_data);
        p.window.data = advance(w.window.data, first * w.window.sample_stride, w.window_data);
        check(launch_depthwise(type, pairs, p, device.stream()));
        reduce_sums(gradients, ref, reduction, type, out.narrow(0, first, p.samples), device);
    }
    return out;
}

}  // namespace gradfast::cuda
