// Direct form: a block owns a tile of the gradient P' U of one sample and group, keeps it in accumulators
// over all positions, squares and reduces it. It goes through several rows if T is small, so that U, which
// the rows share, is read once. The gradient never reaches memory.
#include "pipeline.cuh"

namespace gradfast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(T::kThreads) direct_kernel(const __grid_constant__ DirectParams p) {
    using Element = typename T::Element;
    using Accumulator = typename T::Accumulator;
    auto* shared = dynamic_shared<Element>();
    GRADFAST_SHARED(Accumulator, partial, kMaxItems * T::kWarps);

    // Tiles of one sample run side by side, so that they find its operands in L2.
    const int64_t block = p.first_block + blockIdx.x;
    const int parts = p.groups * p.tiles_m * p.tiles_n;
    const int64_t sample_and_rows = block / parts;
    const int part = static_cast<int>(block % parts);
    const int64_t sample = sample_and_rows / p.row_blocks;
    const int row0 = static_cast<int>(sample_and_rows % p.row_blocks) * p.rows_per_block;
    const int n0 = part % p.tiles_n * T::kN;
    const int m0 = part / p.tiles_n % p.tiles_m * T::kM;
    const int group = part / p.tiles_n / p.tiles_m;
    const int rows = p.rows - row0 < p.rows_per_block ? p.rows - row0 : p.rows_per_block;
    const int steps = (p.positions.count + T::kK - 1) / T::kK;

    const auto tile_a = [&](int stage) { return shared + stage * T::kSizeA; };
    const auto tile_b = [&](int stage) { return shared + T::kStages * T::kSizeA + stage * T::kSizeB; };

    int issued_row = 0, issued = 0;  // what issue is at
    const auto issue = [&](int stage) {
        const int t0 = issued * T::kK, row = row0 + issued_row;
        stage_k_major<T, T::kM, T::kLeadA>(tile_a(stage), p.position,
                                           operand_base<Element>(p.position, row, sample, group), p.positions,
                                           t0, m0);
        if (!p.resident || issued_row == 0)
            stage_k_major<T, T::kN, T::kLeadB>(tile_b(p.resident ? issued : stage), p.window,
                                               operand_base<Element>(p.window, row, sample, group),
                                               p.positions, t0, n0);
        if (++issued == steps) issued = 0, ++issued_row;
    };

    typename T::Sums sums;
    sums.clear();
    ItemSums<Accumulator, T::kWarps> squares{partial};
    int consumed_row = 0, consumed = 0;
    const auto consume = [&](int stage) {
        T::multiply(sums, tile_a(stage), tile_b(p.resident ? consumed : stage));
        if (++consumed < steps) return;
        Accumulator square = 0;
#pragma unroll
        for (int i = 0; i < T::kCount; ++i) square += sums.value[i] * sums.value[i];
        squares.put(consumed_row, square);
        sums.clear();
        consumed = 0, ++consumed_row;
    };

    pipeline<T::kStages>(rows * steps, issue, consume);
    squares.send(rows, p.destination, part, [&](int item) { return sample * p.rows + row0 + item; });
}

template <class T>
TileExtent extent() {
    return {T::kM, T::kN, T::kK, T::kStages, T::kThreads, T::kDynamicBytes};
}

// f(tile type) for one variant.
template <class F>
auto with_tile(Math math, Tile tile, F f) {
    constexpr auto kStorage = Storage::k_major;
    const bool large = tile == Tile::large;
    switch (math) {
        case Math::bf16:
            return large ? f(LargeTile<Math::bf16, kStorage, 4>{}) : f(SmallTile<Math::bf16, kStorage, 4>{});
        case Math::fp16:
            return large ? f(LargeTile<Math::fp16, kStorage, 4>{}) : f(SmallTile<Math::fp16, kStorage, 4>{});
        case Math::tf32:
            return large ? f(LargeTile<Math::tf32, kStorage, 4>{}) : f(SmallTile<Math::tf32, kStorage, 4>{});
        case Math::fp32:
            return f(SmallTile<Math::fp32, kStorage, 3>{});
        case Math::fp64:
            break;
    }
    return f(SmallTile<Math::fp64, kStorage, 3>{});
}

}  // namespace

TileExtent direct_tile(Math math, Tile tile) {
    return with_tile(math, tile, [](auto t) { return extent<decltype(t)>(); });
}

cudaError_t launch_direct(Math math, Tile tile, int64_t blocks, const DirectParams& params,
                          cudaStream_t stream) {
    return with_tile(math, tile, [&](auto t) {
        using T = decltype(t);
        return launch(direct_kernel<T>, blocks, T::kThreads, T::kDynamicBytes, stream, params);
    });
}

}  // namespace gradfast::cuda
