// Direct form: a block owns a tile of the gradient P' U of one sample and group, keeps it in accumulators
// over all positions, squares and reduces it. It goes through several rows if T is small, so that U, which
// the rows share, is read once. The gradient never reaches memory.
#include "pipeline.cuh"

namespace gradfast::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kM == 128            ? 2
                                               : T::math == Math::fp64 ? 3
                                                                       : 4)
    direct_kernel(const __grid_constant__ DirectParams p) {
    using Element = typename T::Element;
    using Accumulator = typename T::Accumulator;
    auto* shared = dynamic_shared<Element>();
    GRADFAST_SHARED(Accumulator, partial, kMaxItems * T::kWarps);

    const TileBlock at = tile_block(p);
    const int m0 = at.tile_m * T::kM, n0 = at.tile_n * T::kN;
    const int steps = (p.positions.count + T::kK - 1) / T::kK;

    const auto tile_a = [&](int stage) { return shared + stage * T::kSizeA; };
    const auto tile_b = [&](int stage) { return shared + T::kStages * T::kSizeA + stage * T::kSizeB; };

    int issued_row = 0, issued = 0;  // what issue is at
    const auto issue = [&](int stage) {
        const int t0 = issued * T::kK, row = at.row0 + issued_row;
        stage_k_major<T, T::kM, T::kLeadA>(tile_a(stage), p.position,
                                           operand_base<Element>(p.position, row, at.sample, at.group),
                                           p.positions, t0, m0);
        if (!p.resident || issued_row == 0)
            stage_k_major<T, T::kN, T::kLeadB>(tile_b(p.resident ? issued : stage), p.window,
                                               operand_base<Element>(p.window, row, at.sample, at.group),
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

    pipeline<T::kStages>(at.rows * steps, issue, consume);
    squares.send(at.rows, p.destination, at.part,
                 [&](int item) { return at.sample * p.rows + at.row0 + item; });
}

}  // namespace

cudaError_t launch_direct(Math math, Tile tile, int64_t blocks, const DirectParams& params,
                          cudaStream_t stream) {
    const auto go = [&](auto t) {
        using T = decltype(t);
        static_assert(is_extent<T>(direct_tile(T::math, T::kM == 128 ? Tile::large : Tile::small)));
        return launch(direct_kernel<T>, blocks, T::kThreads, T::kDynamicBytes, stream, params);
    };
    return tile == Tile::large ? with_tile<LargeTile, Storage::k_major>(math, go)
                               : with_tile<SmallTile, Storage::k_major>(math, go);
}

}  // namespace gradfast::cuda
