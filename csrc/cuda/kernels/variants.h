// The variants that the contraction kernels come in, as plain numbers: the host chooses by them, also in a
// build without CUDA (explain), and the kernels are held to them at compile time (tile.cuh).
#pragma once

namespace gradfast::cuda {

// How products are formed. tf32: float32 operands on tensor cores; fp32: float32 operands on the FMA units.
enum class Math { bf16, fp16, tf32, fp32, fp64 };

enum class Tile { small, large };

constexpr bool on_tensor_cores(Math math) {
    return math == Math::bf16 || math == Math::fp16 || math == Math::tf32;
}

constexpr int element_bytes(Math math) {
    return math == Math::fp64 ? 8 : math == Math::bf16 || math == Math::fp16 ? 2 : 4;
}

// m x n results, k of the summed dimension at a time, in so many stages of shared memory.
struct TileExtent {
    int m, n, k, stages, threads, dynamic_bytes;

    constexpr bool operator==(const TileExtent& o) const {
        return m == o.m && n == o.n && k == o.k && stages == o.stages && threads == o.threads &&
               dynamic_bytes == o.dynamic_bytes;
    }
};

constexpr int kTileThreads = 128;

// Bytes that keep the rows of a tile in shared memory off each other's banks.
constexpr int tile_pad_bytes(Math math, bool k_major) {
    return math == Math::tf32 && k_major ? 32 : 16;
}

// k_major: operands that lie as [k][m], with the summed dimension outermost.
constexpr TileExtent tile_extent(Math math, bool k_major, int edge) {
    const int bytes = element_bytes(math), k = 64 / bytes, stages = on_tensor_cores(math) ? 4 : 3;
    const int pad = tile_pad_bytes(math, k_major) / bytes;
    const int elements = k_major ? (edge + pad) * k : (k + pad) * edge;
    return {edge, edge, k, stages, kTileThreads, 2 * stages * elements * bytes};
}

constexpr TileExtent direct_tile(Math math, Tile tile) {
    return tile_extent(math, true, tile == Tile::large && on_tensor_cores(math) ? 128 : 64);
}
constexpr TileExtent gram_tile(Math math) {
    return tile_extent(math, false, 64);
}
constexpr TileExtent dot_tile(Math math) {
    return tile_extent(math, false, 64);
}

// Most rows (or pairs of rows) that one block takes.
constexpr int kMaxItems = 16;

}  // namespace gradfast::cuda
