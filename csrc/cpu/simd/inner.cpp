#include "inner.h"

#include "multiply.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr int kTile = 4;
// Height of a tile: 16 sums and their operands, or 12 where registers are few.
constexpr int kTileRows = kRegisters == 32 ? 4 : 3;
constexpr int64_t kChunkBytes = 2048;   // of one vector, between two visits
constexpr int64_t kBlockBytes = 16384;  // of the vectors b that stay in the first-level cache

// A range of every vector: runs [first, last), of each the elements [begin, begin + length).
struct Chunk {
    int64_t first, last, begin, length;
};

template <typename Unit>
using Sum = typename Multiply<Unit>::Sum;

template <typename Unit>
constexpr int64_t kElementBytes = kVectorBytes / Multiply<Unit>::elements;

template <typename Unit>
using TileSums = Vec<Sum<Unit>>[kTileRows][kTile];

// One multiply-add of each a with each b, of `count` elements; `Whole`: of a full vector of them.
template <typename Unit, bool Whole>
[[gnu::always_inline]] inline void tile_step(const char* const (&a)[kTileRows], const char* const (&b)[kTile],
                                             int64_t at_a, int64_t at_b, int64_t count,
                                             TileSums<Unit>& sums) {
    using M = Multiply<Unit>;
    const auto read = [count](const char* p) __attribute__((always_inline)) {
        const Unit* unit = reinterpret_cast<const Unit*>(p);
        return Whole ? M::load(unit) : M::load_elements(unit, count);
    };
    typename M::Operand va[kTileRows];
#pragma GCC unroll 4
    for (int i = 0; i < kTileRows; ++i) va[i] = read(a[i] + at_a);
#pragma GCC unroll 4
    for (int j = 0; j < kTile; ++j) {
        const typename M::Operand vb = read(b[j] + at_b);
#pragma GCC unroll 4
        for (int i = 0; i < kTileRows; ++i) M::add(sums[i][j], va[i], vb);
    }
}

// Where the vectors first .. first + N begin. Past the end the last one is read again; what comes of it is
// not used.
template <typename Unit, int N>
struct Pointers {
    const char* at[N];

    Pointers(const Vectors& v, int64_t count, const Chunk& chunk, int64_t first) {
#pragma GCC unroll 4
        for (int i = 0; i < N; ++i)
            at[i] = static_cast<const char*>(v.data) +
                    (v.vector[smaller(first + i, count - 1)] + chunk.begin) * kElementBytes<Unit>;
    }
};

// sums[i][j] = <a_i, b_j> over the chunk, lane by lane.
template <typename Unit>
[[gnu::always_inline]] inline void tile_sums(const Pointers<Unit, kTileRows>& a, const int64_t* a_segment,
                                             const Pointers<Unit, kTile>& b, const int64_t* b_segment,
                                             const Chunk& chunk, TileSums<Unit>& sums) {
    using M = Multiply<Unit>;
#pragma GCC unroll 4
    for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < kTile; ++j) sums[i][j] = Vec<Sum<Unit>>{};

    const int64_t tail = chunk.length % M::elements;
    const int64_t whole = (chunk.length - tail) * kElementBytes<Unit>;
    for (int64_t s = chunk.first; s < chunk.last; ++s) {
        int64_t at_a = a_segment[s] * kElementBytes<Unit>, at_b = b_segment[s] * kElementBytes<Unit>;
        for (const int64_t end = at_a + whole; at_a < end; at_a += kVectorBytes, at_b += kVectorBytes)
            tile_step<Unit, true>(a.at, b.at, at_a, at_b, M::elements, sums);
        if (tail > 0) tile_step<Unit, false>(a.at, b.at, at_a, at_b, tail, sums);
    }
}

// Sums over the lanes of every vector of a tile.
template <typename Sum, typename V>
inline void sum_tile(const V (&sums)[kTileRows][kTile], Sum (&dots)[kTileRows][kTile]) {
    for (int i = 0; i < kTileRows; ++i)
        for (int j = 0; j < kTile; ++j) dots[i][j] = sum(sums[i][j]);
}

#if defined(__AVX512F__)
// Transposed adds: each level halves the number of vectors.
inline void sum_tile(const Vec<float> (&sums)[kTileRows][kTile], float (&dots)[kTileRows][kTile]) {
    __m512 row[kTileRows];
    for (int i = 0; i < kTileRows; ++i) {
        const auto halves = [&](int j) {
            const __m512 a = (__m512)sums[i][j], b = (__m512)sums[i][j + 1];
            return (__m512d)((__m512)_mm512_unpacklo_ps(a, b) + (__m512)_mm512_unpackhi_ps(a, b));
        };
        const __m512d a = halves(0), b = halves(2);
        row[i] = (__m512)_mm512_unpacklo_pd(a, b) + (__m512)_mm512_unpackhi_pd(a, b);
    }
    const auto quarters = [](__m512 a, __m512 b) {
        return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
    };
    _mm512_storeu_ps(&dots[0][0], quarters(quarters(row[0], row[1]), quarters(row[2], row[3])));
}
#elif defined(__AVX__)
inline void sum_tile(const Vec<float> (&sums)[kTileRows][kTile], float (&dots)[kTileRows][kTile]) {
    for (int i = 0; i < kTileRows; ++i) {
        const auto pair = [&](int j) { return _mm256_hadd_ps((__m256)sums[i][j], (__m256)sums[i][j + 1]); };
        const __m256 row = _mm256_hadd_ps(pair(0), pair(2));
        _mm_storeu_ps(dots[i], _mm256_castps256_ps128(row) + _mm256_extractf128_ps(row, 1));
    }
}
#endif

// Cuts the vectors so that a chunk of a few of them fits the first-level cache.
template <typename Unit, typename F>
void each_chunk(const InnerProblem& p, F visit) {
    const int64_t most = kChunkBytes / kElementBytes<Unit>;
    if (p.length >= most) {
        for (int64_t s = 0; s < p.segments; ++s)
            for (int64_t k = 0; k < p.length; k += most)
                visit(Chunk{s, s + 1, k, smaller(most, p.length - k)});
    } else {
        const int64_t runs = most / p.length;
        for (int64_t s = 0; s < p.segments; s += runs)
            visit(Chunk{s, smaller(s + runs, p.segments), 0, p.length});
    }
}

template <typename Unit>
int64_t block_vectors(const Chunk& chunk) {
    const int64_t bytes = (chunk.last - chunk.first) * chunk.length * kElementBytes<Unit>;
    const int64_t vectors = kBlockBytes / bytes / kTile * kTile;
    return vectors < kTile ? kTile : vectors;
}

template <typename Unit>
void inner_products_of(const InnerProblem& p, int64_t begin, int64_t end, bool upper, bool accumulate,
                       Sum<Unit>* out, int64_t out_stride) {
    if (!accumulate)
        for (int64_t i = begin; i < end; ++i)
            for (int64_t j = upper ? i / kTile * kTile : 0; j < p.b_count; ++j) out[i * out_stride + j] = 0;
    each_chunk<Unit>(p, [&](const Chunk& chunk) {
        const int64_t block = block_vectors<Unit>(chunk);
        for (int64_t j1 = 0; j1 < p.b_count; j1 += block) {
            const int64_t j2 = smaller(j1 + block, p.b_count);
            for (int64_t i0 = begin; i0 < (upper ? smaller(end, j2) : end); i0 += kTileRows) {
                const Pointers<Unit, kTileRows> a(p.a, p.a_count, chunk, i0);
                for (int64_t j0 = upper && i0 > j1 ? i0 / kTile * kTile : j1; j0 < j2; j0 += kTile) {
                    Sum<Unit> dots[kTileRows][kTile];
                    TileSums<Unit> sums;
                    tile_sums<Unit>(a, p.a.segment, {p.b, p.b_count, chunk, j0}, p.b.segment, chunk, sums);
                    sum_tile(sums, dots);
                    for (int i = 0; i < kTileRows && i0 + i < end; ++i)
                        for (int j = 0; j < kTile && j0 + j < j2; ++j)
                            out[(i0 + i) * out_stride + j0 + j] += dots[i][j];
                }
            }
        }
    });
}

template <typename Unit>
double weighted_inner_products_of(const InnerProblem& p, int64_t begin, int64_t end, const Sum<Unit>* weight,
                                  int64_t weight_stride) {
    double total = 0;
    each_chunk<Unit>(p, [&](const Chunk& chunk) {
        const int64_t block = block_vectors<Unit>(chunk);
        for (int64_t j1 = begin / block * block; j1 < p.a_count; j1 += block) {
            const int64_t j2 = smaller(j1 + block, p.a_count);
            for (int64_t i0 = begin; i0 < smaller(end, j2); i0 += kTileRows) {
                Vec<Sum<Unit>> weighted[kTile] =
                    {};  // few terms in one float: the rest of the sum is in double
                const Pointers<Unit, kTileRows> a(p.a, p.a_count, chunk, i0);
                for (int64_t j0 = i0 > j1 ? i0 / kTile * kTile : j1; j0 < j2; j0 += kTile) {
                    TileSums<Unit> sums;
                    tile_sums<Unit>(a, p.a.segment, {p.a, p.a_count, chunk, j0}, p.a.segment, chunk, sums);
                    const Sum<Unit>* w = weight + i0 * weight_stride + j0;
#pragma GCC unroll 4
                    for (int j = 0; j < kTile; ++j)
#pragma GCC unroll 4
                        for (int i = 0; i < kTileRows; ++i)
                            weighted[j] += w[i * weight_stride + j] * sums[i][j];
                    // In memory between tiles: GCC would keep these in registers and spill the inner loop's
                    // operands.
                    asm volatile("" : "+m"(weighted));
                }
                total += sum((weighted[0] + weighted[1]) + (weighted[2] + weighted[3]));
            }
        }
    });
    return total;
}

}  // namespace

void inner_products(const InnerProblem& problem, int64_t begin, int64_t end, bool upper, bool accumulate,
                    void* out, int64_t out_stride) {
    switch (problem.element) {
        case Element::f64:
            return inner_products_of<double>(problem, begin, end, upper, accumulate,
                                             static_cast<double*>(out), out_stride);
#if defined(__AVX512BF16__)
        case Element::bf16:
            return inner_products_of<Bf16Pair>(problem, begin, end, upper, accumulate,
                                               static_cast<float*>(out), out_stride);
#endif
        default:
            return inner_products_of<float>(problem, begin, end, upper, accumulate, static_cast<float*>(out),
                                            out_stride);
    }
}

double weighted_inner_products(const InnerProblem& problem, int64_t begin, int64_t end, const void* weight,
                               int64_t weight_stride) {
    switch (problem.element) {
        case Element::f64:
            return weighted_inner_products_of<double>(problem, begin, end, static_cast<const double*>(weight),
                                                      weight_stride);
#if defined(__AVX512BF16__)
        case Element::bf16:
            return weighted_inner_products_of<Bf16Pair>(problem, begin, end,
                                                        static_cast<const float*>(weight), weight_stride);
#endif
        default:
            return weighted_inner_products_of<float>(problem, begin, end, static_cast<const float*>(weight),
                                                     weight_stride);
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
