// Inner products of gradients with a reference gradient R: <P' U, R> = sum(P * (U R')). U R', what the layer
// gives with R as its weight, is formed in accumulators, once for all rows if they share U, then multiplied
// by each row's P and reduced.
#include "pipeline.cuh"

namespace gradfast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(T::kThreads) dot_kernel(const __grid_constant__ DotParams p) {
    using Element = typename T::Element;
    using Accumulator = typename T::Accumulator;
    auto* shared = dynamic_shared<Element>();
    GRADFAST_SHARED(Accumulator, partial, kMaxItems * T::kWarps);

    const int64_t block = p.first_block + blockIdx.x;
    const int parts = p.groups * p.tiles_m * p.tiles_n;
    const int64_t sample_and_rows = block / parts;
    const int part = static_cast<int>(block % parts);
    const int64_t sample = sample_and_rows / p.row_blocks;
    const int row0 = static_cast<int>(sample_and_rows % p.row_blocks) * p.rows_per_block;
    const int rows = p.rows - row0 < p.rows_per_block ? p.rows - row0 : p.rows_per_block;
    const int n0 = part % p.tiles_n * T::kN;
    const int t0 = part / p.tiles_n % p.tiles_m * T::kM;
    const int group = part / p.tiles_n / p.tiles_m;
    const int steps = (p.window.width + T::kK - 1) / T::kK;
    const bool common = p.window.row_stride == 0;

    const auto tile_a = [&](int stage) { return shared + stage * T::kSizeA; };
    const auto tile_b = [&](int stage) { return shared + T::kStages * T::kSizeA + stage * T::kSizeB; };
    Positions channels;  // the weight's rows are the channels of P
    channels.count = p.channels;
    const auto* weight = operand_base<Element>(p.weight, 0, 0, group);

    int issued_row = 0, issued = 0;
    const auto issue = [&](int stage) {
        const int column = issued * T::kK;
        stage_k_minor<T, T::kM, T::kLeadA>(tile_a(stage), p.window,
                                           operand_base<Element>(p.window, row0 + issued_row, sample, group),
                                           p.positions, t0, column);
        stage_k_minor<T, T::kN, T::kLeadB>(tile_b(stage), p.weight, weight, channels, n0, column);
        if (++issued == steps) issued = 0, ++issued_row;
    };

    typename T::Sums sums;
    sums.clear();
    ItemSums<Accumulator, T::kWarps> products{partial};
    const auto multiply_row = [&](int row) {
        const auto* position = operand_base<Element>(p.position, row0 + row, sample, group);
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

    pipeline<T::kStages>(common ? steps : rows * steps, issue, consume);
    if (common) {
        for (int row = 0; row < rows; ++row) multiply_row(row);
        __syncthreads();
    }
    products.send(rows, p.destination, part, [&](int item) { return sample * p.rows + row0 + item; });
}

template <class F>
auto with_tile(Math math, F f) {
    constexpr auto kStorage = Storage::k_minor;
    switch (math) {
        case Math::bf16:
            return f(SmallTile<Math::bf16, kStorage, 4>{});
        case Math::fp16:
            return f(SmallTile<Math::fp16, kStorage, 4>{});
        case Math::tf32:
            return f(SmallTile<Math::tf32, kStorage, 4>{});
        case Math::fp32:
            return f(SmallTile<Math::fp32, kStorage, 3>{});
        case Math::fp64:
            break;
    }
    return f(SmallTile<Math::fp64, kStorage, 3>{});
}

}  // namespace

TileExtent dot_tile(Math math) {
    return with_tile(math, [](auto t) {
        using T = decltype(t);
        return TileExtent{T::kM, T::kN, T::kK, T::kStages, T::kThreads, T::kDynamicBytes};
    });
}

cudaError_t launch_dot(Math math, int64_t blocks, const DotParams& params, cudaStream_t stream) {
    return with_tile(math, [&](auto t) {
        using T = decltype(t);
        return launch(dot_kernel<T>, blocks, T::kThreads, T::kDynamicBytes, stream, params);
    });
}

}  // namespace gradfast::cuda
