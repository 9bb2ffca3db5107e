// Inner products of gradients with a reference gradient R: <P' U, R> = sum(P * (U R')). U R', what the layer
// gives with R as its weight, is formed in accumulators, once for all rows if they share U, then multiplied
// by each row's P and reduced.
#include "pipeline.cuh"

namespace gradfast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::math == Math::fp64 ? 2 : 4)
    dot_kernel(const __grid_constant__ DotParams p) {
    using Element = typename T::Element;
    using Accumulator = typename T::Accumulator;
    auto* shared = dynamic_shared<Element>();
    GRADFAST_SHARED(Accumulator, partial, kMaxItems * T::kWarps);

    const TileBlock at = tile_block(p);
    const int t0 = at.tile_m * T::kM, n0 = at.tile_n * T::kN;
    const int steps = (p.window.width + T::kK - 1) / T::kK;
    const bool common = p.window.row_stride == 0;

    const auto tile_a = [&](int stage) { return shared + stage * T::kSizeA; };
    const auto tile_b = [&](int stage) { return shared + T::kStages * T::kSizeA + stage * T::kSizeB; };
    Positions channels;  // the weight's rows are the channels of P
    channels.count = p.channels;
    const auto* weight = operand_base<Element>(p.weight, 0, 0, at.group);

    int issued_row = 0, issued = 0;
    const auto issue = [&](int stage) {
        const int column = issued * T::kK;
        stage_k_minor<T, T::kM, T::kLeadA>(
            tile_a(stage), p.window,
            operand_base<Element>(p.window, at.row0 + issued_row, at.sample, at.group), p.positions, t0,
            column);
        stage_k_minor<T, T::kN, T::kLeadB>(tile_b(stage), p.weight, weight, channels, n0, column);
        if (++issued == steps) issued = 0, ++issued_row;
    };

    typename T::Sums sums;
    sums.clear();
    ItemSums<Accumulator, T::kWarps> products{partial};
    const auto multiply_row = [&](int row) {
        const auto* position = operand_base<Element>(p.position, at.row0 + row, at.sample, at.group);
        Accumulator product = 0;
        T::for_each([&](int i, int m, int n) {
            const int t = t0 + m, channel = n0 + n;
            if (t < p.positions.count && channel < p.channels)
                product += sums.value[i] *
                           widen(position[static_cast<int64_t>(t) * p.position.pixel_stride + channel]);
        });
        products.put(row, product);
    };

    int consumed_row = 0, consumed = 0;
    const auto consume = [&](int stage) {
        T::multiply(sums, tile_a(stage), tile_b(stage));
        if (++consumed < steps || common) return;
        multiply_row(consumed_row);
        sums.clear();
        consumed = 0, ++consumed_row;
    };

    pipeline<T::kStages>(common ? steps : at.rows * steps, issue, consume);
    if (common) {
        for (int row = 0; row < at.rows; ++row) multiply_row(row);
        __syncthreads();
    }
    products.send(at.rows, p.destination, at.part,
                  [&](int item) { return at.sample * p.rows + at.row0 + item; });
}

}  // namespace

cudaError_t launch_dot(Math math, int64_t blocks, const DotParams& params, cudaStream_t stream) {
    return with_tile<SmallTile, Storage::k_minor>(math, [&](auto t) {
        using T = decltype(t);
        static_assert(is_extent<T>(dot_tile(T::math)));
        return launch(dot_kernel<T>, blocks, T::kThreads, T::kDynamicBytes, stream, params);
    });
}

}  // namespace gradfast::cuda
