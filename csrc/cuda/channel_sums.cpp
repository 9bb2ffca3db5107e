#include "channel_sums.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "../checks.h"
#include "plan.h"

namespace gradfast::cuda {
namespace {

// Blocks per multiprocessor that keep its loads in flight.
constexpr int64_t kBlocksPerMultiprocessor = 8;
// Passes of a block over its positions that a further split must leave.
constexpr int64_t kLeastPasses = 4;

// [.., O, *] as [.., *, O]; the channels are at channel_dim.
at::Tensor channels_to_back(const at::Tensor& t, int64_t channel_dim) {
    return t.movedim(channel_dim, -1);
}

at::Tensor sums_of_planes(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                          const DeviceScope& device) {
    const auto type = element_type(g.scalar_type());
    PlaneParams p;
    auto out =
        at::empty({1, g.size(0), g.size(1), g.size(2)}, g.options().dtype(accumulate_dtype(g.scalar_type())));
    p.g = g.data_ptr();
    if (xhat) p.xhat = xhat->data_ptr();
    p.sums = out.data_ptr();
    p.planes = out.numel();
    p.planes_of_row = g.size(1) * g.size(2);
    p.positions = g.numel() / p.planes;
    check(launch_plane_sums(type, p, device.stream()));
    return out;
}

at::Tensor sums_of_channels(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                            const DeviceScope& device) {
    const auto type = element_type(g.scalar_type());
    ChannelParams p;
    p.g = g.data_ptr();
    p.rows = static_cast<int32_t>(g.size(0));
    p.samples = g.size(1);
    p.channels = static_cast<int32_t>(g.size(-1));
    p.positions = g.numel() / (p.rows * p.samples * p.channels);
    bool vectorized = chunks_aligned(g);
    if (xhat) {
        p.x[0] = xhat->data_ptr();
        p.affine = 1;
        p.bias = false;
        vectorized = vectorized && chunks_aligned(*xhat);
    }
    plan_channel_sums(p, type, vectorized, device.multiprocessors());
    auto out = at::empty({p.splits, p.rows, p.samples, p.channels},
                         g.options().dtype(accumulate_dtype(g.scalar_type())));
    p.sums = out.data_ptr();
    check(launch_channel_sums(type, vectorized, p, device.stream()));
    return out;
}

}  // namespace

ElementType element_type(at::ScalarType dtype) {
    switch (dtype) {
        case at::kBFloat16:
            return ElementType::bf16;
        case at::kHalf:
            return ElementType::f16;
        case at::kDouble:
            return ElementType::f64;
        default:
            return ElementType::f32;
    }
}

bool chunks_aligned(const at::Tensor& t) {
    constexpr int64_t kBytes = 16;
    return t.size(-1) * static_cast<int64_t>(t.element_size()) % kBytes == 0 &&
           reinterpret_cast<std::uintptr_t>(t.data_ptr()) % kBytes == 0;
}

void plan_channel_sums(ChannelParams& p, ElementType type, bool vectorized, int multiprocessors) {
    const ChannelExtent e = channel_extent(type, p.affine, vectorized, p.channels);
    p.row_blocks = static_cast<int32_t>(ceil_divide(p.rows, e.rows));
    p.channel_blocks = static_cast<int32_t>(ceil_divide(p.channels, e.channels));
    const int64_t blocks = p.samples * p.row_blocks * p.channel_blocks;
    p.splits = static_cast<int32_t>(position_splits(p.positions, e.positions, blocks, multiprocessors));
    p.positions_per_split = ceil_divide(p.positions, p.splits);
}

int64_t position_splits(int64_t positions, int64_t at_once, int64_t blocks, int multiprocessors) {
    const int64_t wanted = ceil_divide(multiprocessors * kBlocksPerMultiprocessor, blocks);
    return std::max<int64_t>(1, std::min(wanted, positions / (kLeastPasses * at_once)));
}

at::Tensor channel_sums(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                        const DeviceScope& device) {
    const auto last = channels_to_back(g, 2);
    if (last.dim() > 3 && g.is_contiguous() && !last.is_contiguous()) {
        const std::optional<at::Tensor> planes = xhat ? std::optional(xhat->contiguous()) : std::nullopt;
        return sums_of_planes(g, planes, device);
    }
    const std::optional<at::Tensor> last_xhat =
        xhat ? std::optional(channels_to_back(*xhat, 1).contiguous()) : std::nullopt;
    return sums_of_channels(last.contiguous(), last_xhat, device);
}

void reduce_sums(const at::Tensor& sums, const std::optional<at::Tensor>& ref, Reduction reduction,
                 ElementType type, const at::Tensor& out, const DeviceScope& device) {
    ReduceParams p;
    p.sums = sums.data_ptr();
    if (ref) p.ref = ref->data_ptr();
    p.out = out.data_ptr();
    p.splits = static_cast<int32_t>(sums.size(0));
    p.rows = static_cast<int32_t>(sums.size(1));
    p.samples = sums.size(2);
    p.channels = static_cast<int32_t>(sums.size(3));
    p.items = reduction == Reduction::gram ? p.rows * p.rows : p.rows;
    p.reduction = reduction;
    check(launch_reduce(type, p, device.stream()));
}

at::Tensor reduce_channels(const at::Tensor& g, const std::optional<at::Tensor>& xhat,
                           const std::optional<at::Tensor>& ref, Reduction reduction) {
    const int64_t rows = g.size(0), samples = g.size(1);
    const auto options = g.options().dtype(accumulate_dtype(g.scalar_type()));
    const bool gram = reduction == Reduction::gram;
    auto out = gram ? at::zeros({samples, rows, rows}, options) : at::zeros({samples, rows}, options);
    if (g.numel() == 0) return out;
    const DeviceScope device(g);
    const std::optional<at::Tensor> reference = ref ? std::optional(ref->contiguous()) : std::nullopt;
    reduce_sums(channel_sums(g, xhat, device), reference, reduction, element_type(g.scalar_type()), out,
                device);
    return out;
}

}  // namespace gradfast::cuda
