// Gram form: sum over pairs of positions of (U U')[s, t] * (P P')[s, t]. A block owns a tile of pairs; the
// Gram matrix of the operand that the rows share is formed once, in accumulators, and each row's is formed
// beside it, multiplied and reduced. Both matrices are symmetric, so tiles below the diagonal are left out
// and those above count twice.
//
// With cross it is the inner product of the gradients of two rows: (P_c P_d')[s, t] in place of (P P')[s, t].
#include "pipeline.cuh"
#include "triangle.cuh"

namespace gradfast::cuda {
namespace {

// Where a block is: a pair of position tiles, a group, a sample and a run of items.
struct GramBlock {
    int64_t sample;
    int group, first_item, items, part;
    Pair tiles;
};

__device__ __forceinline__ GramBlock gram_block(const GramParams& p) {
    const int64_t block = p.first_block + blockIdx.x;
    const int parts = p.groups * p.tile_pairs;
    const int64_t sample_and_items = block / parts;
    GramBlock b;
    b.part = static_cast<int>(block % parts);
    b.sample = sample_and_items / p.item_blocks;
    b.first_item = static_cast<int>(sample_and_items % p.item_blocks) * p.items_per_block;
    b.items = p.items - b.first_item < p.items_per_block ? p.items - b.first_item : p.items_per_block;
    b.group = b.part / p.tile_pairs;
    const int pair = b.part % p.tile_pairs;
    b.tiles = p.cross ? Pair{pair / p.tiles, pair % p.tiles} : triangular(pair);
    return b;
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::math == Math::fp64   ? 2
                                               : T::math == Math::fp32 ? 3
                                                                       : 4)
    gram_kernel(const __grid_constant__ GramParams p) {
    using Element = typename T::Element;
    using Accumulator = typename T::Accumulator;
    auto* shared = dynamic_shared<Element>();
    GRADFAST_SHARED(Accumulator, partial, kMaxItems * T::kWarps);

    const GramBlock at = gram_block(p);
    const int s0 = at.tiles.first * T::kM, t0 = at.tiles.second * T::kN;
    const bool diagonal = at.tiles.first == at.tiles.second;
    const int count = p.positions.count;
    const int64_t gram_offset = (at.sample * p.groups + at.group) * count * count;

    typename T::Sums sums, common;
    sums.clear();
    common.clear();
    if (p.load_gram) {
        const auto* gram = static_cast<const Accumulator*>(p.gram) + gram_offset;
        T::for_each([&](int i, int m, int n) {
            const int s = s0 + m, t = t0 + n;
            if (s < count && t < count) common.value[i] = gram[static_cast<int64_t>(s) * count + t];
        });
    }

    const auto tile_a = [&](int stage) { return shared + stage * T::kSizeA; };
    const auto tile_b = [&](int stage) { return shared + T::kStages * T::kSizeA + stage * T::kSizeB; };
    const auto item_rows = [&](int item) {
        const int i = at.first_item + item;
        return p.cross ? triangular(i) : Pair{i, i};
    };

    // Item -1 is the pass over the shared operand.
    const int first_item = p.load_gram ? 0 : -1;
    const int shared_steps = (p.shared.width + T::kK - 1) / T::kK;
    const int row_steps = (p.rowwise.width + T::kK - 1) / T::kK;

    int issued_item = first_item, issued = 0;
    const auto issue = [&](int stage) {
        const bool is_shared = issued_item < 0;
        const Operand& op = is_shared ? p.shared : p.rowwise;
        const Pair rows = is_shared ? Pair{0, 0} : item_rows(issued_item);
        const int column = issued * T::kK;
        stage_k_minor<T, T::kM, T::kLeadA>(tile_a(stage), op,
                                           operand_base<Element>(op, rows.first, at.sample, at.group),
                                           p.positions, s0, column);
        if (!diagonal || rows.first != rows.second)
            stage_k_minor<T, T::kN, T::kLeadB>(tile_b(stage), op,
                                               operand_base<Element>(op, rows.second, at.sample, at.group),
                                               p.positions, t0, column);
        if (++issued == (is_shared ? shared_steps : row_steps)) issued = 0, ++issued_item;
    };

    ItemSums<Accumulator, T::kWarps> products{partial};
    const auto weight = Accumulator(diagonal || p.cross ? 1 : 2);
    int consumed_item = first_item, consumed = 0;
    const auto consume = [&](int stage) {
        const bool is_shared = consumed_item < 0;
        const Pair rows = is_shared ? Pair{0, 0} : item_rows(consumed_item);
        T::multiply(sums, tile_a(stage),
                    diagonal && rows.first == rows.second ? tile_a(stage) : tile_b(stage));
        if (++consumed < (is_shared ? shared_steps : row_steps)) return;
        if (is_shared) {
            common = sums;
        } else {
            Accumulator product = 0;
#pragma unroll
            for (int i = 0; i < T::kCount; ++i) product += sums.value[i] * common.value[i];
            products.put(consumed_item, weight * product);
        }
        sums.clear();
        consumed = 0, ++consumed_item;
    };

    const int items = p.store_gram ? 0 : at.items;
    pipeline<T::kStages>((p.load_gram ? 0 : shared_steps) + items * row_steps, issue, consume);

    if (p.store_gram) {
        auto* gram = static_cast<Accumulator*>(p.gram) + gram_offset;
        T::for_each([&](int i, int m, int n) {
            const int s = s0 + m, t = t0 + n;
            if (s >= count || t >= count) return;
            gram[static_cast<int64_t>(s) * count + t] = common.value[i];
            if (!diagonal) gram[static_cast<int64_t>(t) * count + s] = common.value[i];
        });
        return;
    }
    products.send(items, p.destination, at.part, [&](int item) {
        if (!p.cross) return at.sample * p.rows + at.first_item + item;
        const Pair rows = item_rows(item);
        return (at.sample * p.rows + rows.first) * p.rows + rows.second;
    });
}

// A[s, t] = sum over taps of the pixel Gram matrix at the two pixels that the tap meets from s and from t.
template <class Accumulator>
__global__ void __launch_bounds__(128) tap_sum_kernel(const __grid_constant__ TapSumParams p) {
    const int count = p.positions.count;
    const int64_t cells = static_cast<int64_t>(count) * count;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.batches * cells;
         i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const int64_t batch = i / cells;
        const int s = static_cast<int>(i % cells / count), t = static_cast<int>(i % cells % count);
        const Pixel from_s = pixel_of(p.window, p.positions, s), from_t = pixel_of(p.window, p.positions, t);
        const auto* pixel_gram = static_cast<const Accumulator*>(p.pixel_gram) + batch * p.pixels * p.pixels;
        Accumulator sum = 0;
        for (int tap = 0; tap < p.taps; ++tap) {
            const int64_t u = tap_offset(p.window, from_s, tap), v = tap_offset(p.window, from_t, tap);
            if (u >= 0 && v >= 0) sum += pixel_gram[u * p.pixels + v];
        }
        static_cast<Accumulator*>(p.gram)[i] = sum;
    }
}

}  // namespace

cudaError_t launch_gram(Math math, int64_t blocks, const GramParams& params, cudaStream_t stream) {
    return with_tile<SmallTile, Storage::k_minor>(math, [&](auto t) {
        using T = decltype(t);
        static_assert(is_extent<T>(gram_tile(T::math)));
        return launch(gram_kernel<T>, blocks, T::kThreads, T::kDynamicBytes, stream, params);
    });
}

cudaError_t launch_tap_sum(bool is_double, const TapSumParams& params, cudaStream_t stream) {
    constexpr int kThreads = 128;
    constexpr int64_t kMostBlocks = 1 << 16;
    const int64_t cells = params.batches * params.positions.count * params.positions.count;
    const int64_t wanted = (cells + kThreads - 1) / kThreads;
    const int64_t blocks = wanted < kMostBlocks ? wanted : kMostBlocks;
    return is_double ? launch(tap_sum_kernel<double>, blocks, kThreads, 0, stream, params)
                     : launch(tap_sum_kernel<float>, blocks, kThreads, 0, stream, params);
}

}  // namespace gradfast::cuda
