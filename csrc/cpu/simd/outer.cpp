#include "outer.h"

#include "multiply.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// A tile of kRows channels of P by kVectors vectors of U: 24 sums, or 12 where registers are few.
constexpr int kRows = kRegisters == 32 ? 8 : 4;
constexpr int kVectors = kOuterVectors;
constexpr int64_t kBlockPositions = 256;  // between two visits of a tile, so that operands stay in the caches
constexpr int64_t kBlockRows = 128;       // of the scratch for one panel

template <typename Unit>
struct Panel {
    using M = Multiply<Unit>;
    using Sum = typename M::Sum;
    static constexpr int lanes = kWidth<Sum>;
    static constexpr int columns = kVectors * lanes;

    // tile[i * columns + n] += sum over the positions of lines [first, last)
    template <int Rows, int Vectors>
    static void tile(const Unit* p, int64_t p_stride, const Unit* u, const Windows& w, int64_t first,
                     int64_t last, Sum* out) {
        Vec<Sum> sums[Rows][Vectors];
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
            for (int v = 0; v < Vectors; ++v) sums[i][v] = load(out + i * columns + v * lanes);
        const Unit* at_p = p + first * w.width * p_stride;
        for (int64_t line = first; line < last; ++line) {
            const Unit* at_u = u + w.line[line];
            for (const Unit* end = at_p + w.width * p_stride; at_p != end; at_p += p_stride, at_u += w.step) {
                typename M::Operand window[Vectors];
#pragma GCC unroll 3
                for (int v = 0; v < Vectors; ++v) window[v] = M::load(at_u + v * lanes);
#pragma GCC unroll 8
                for (int i = 0; i < Rows; ++i) {
                    const typename M::Operand scalar = M::broadcast(at_p[i]);
#pragma GCC unroll 3
                    for (int v = 0; v < Vectors; ++v) M::add(sums[i][v], scalar, window[v]);
                }
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 3
            for (int v = 0; v < Vectors; ++v) store(out + i * columns + v * lanes, sums[i][v]);
    }

    using Tile = void (*)(const Unit*, int64_t, const Unit*, const Windows&, int64_t, int64_t, Sum*);

    template <int Rows>
    static Tile tile_of(int64_t vectors) {
        return vectors == 3 ? tile<Rows, 3> : vectors == 2 ? tile<Rows, 2> : tile<Rows, 1>;
    }

    // (P' U)[first .. first + rows, run .. run + columns) into `block` [rows, Panel::columns].
    static void block(const OuterProblem& problem, int64_t first, int64_t rows, int64_t run, int64_t vectors,
                      Sum* block) {
        const Windows& w = problem.u;
        const Unit* p = static_cast<const Unit*>(problem.p.data) + first;
        const Unit* u = static_cast<const Unit*>(w.data) + run;
        for (int64_t i = 0; i < rows * columns; ++i) block[i] = 0;
        const Tile most = tile_of<kRows>(vectors), four = tile_of<4>(vectors), two = tile_of<2>(vectors),
                   one = tile_of<1>(vectors);
        const int64_t lines = w.width < kBlockPositions ? kBlockPositions / w.width : 1;
        for (int64_t line = 0; line < w.lines; line += lines) {
            const int64_t last = smaller(line + lines, w.lines);
            int64_t i = 0;
            const auto run_tiles = [&](Tile tile, int64_t height) {
                for (; i + height <= rows; i += height)
                    tile(p + i, problem.p.stride, u, w, line, last, block + i * columns);
            };
            run_tiles(most, kRows);
            run_tiles(four, 4);
            run_tiles(two, 2);
            run_tiles(one, 1);
        }
    }

    static SquareSumAndDot square_sum(const OuterProblem& problem, int64_t run, int64_t count, const Sum* ref,
                                      int64_t ref_stride) {
        Sum scratch[kBlockRows * columns];
        SquareSumAndDot total{0, 0};
        for (int64_t first = 0; first < problem.rows; first += kBlockRows) {
            const int64_t rows = smaller(kBlockRows, problem.rows - first);
            block(problem, first, rows, run, (count + lanes - 1) / lanes, scratch);
            for (int64_t i = 0; i < rows; ++i) {
                const Sum* const row = scratch + i * columns;
                total.square_sum += dot(row, row, count);
                if (ref != nullptr) total.dot += dot(row, ref + (first + i) * ref_stride, count);
            }
        }
        return total;
    }

    static Sum dot(const Sum* a, const Sum* b, int64_t count) {
        Sum total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t n = 0; n < count; ++n) total += a[n] * b[n];
        return total;
    }

    static void products(const OuterProblem& problem, int64_t first, int64_t rows, int64_t run, int64_t count,
                         Sum* out, int64_t out_stride) {
        Sum scratch[kBlockRows * columns];
        for (int64_t m = 0; m < rows; m += kBlockRows) {
            const int64_t some = smaller(kBlockRows, rows - m);
            block(problem, first + m, some, run, (count + lanes - 1) / lanes, scratch);
            for (int64_t i = 0; i < some; ++i)
                for (int64_t n = 0; n < count; ++n) out[(m + i) * out_stride + n] = scratch[i * columns + n];
        }
    }
};

}  // namespace

int64_t outer_lanes(Element element) {
    return element == Element::f64 ? Panel<double>::lanes : Panel<float>::lanes;
}

SquareSumAndDot outer_square_sum(const OuterProblem& problem, int64_t run, int64_t columns, const void* ref,
                                 int64_t ref_stride) {
    switch (problem.element) {
        case Element::f64:
            return Panel<double>::square_sum(problem, run, columns, static_cast<const double*>(ref),
                                             ref_stride);
#if defined(__AVX512BF16__)
        case Element::bf16:
            return Panel<Bf16Pair>::square_sum(problem, run, columns, static_cast<const float*>(ref),
                                               ref_stride);
#endif
        default:
            return Panel<float>::square_sum(problem, run, columns, static_cast<const float*>(ref),
                                            ref_stride);
    }
}

void outer_products(const OuterProblem& problem, int64_t first, int64_t rows, int64_t run, int64_t columns,
                    void* out, int64_t out_stride) {
    switch (problem.element) {
        case Element::f64:
            return Panel<double>::products(problem, first, rows, run, columns, static_cast<double*>(out),
                                           out_stride);
#if defined(__AVX512BF16__)
        case Element::bf16:
            return Panel<Bf16Pair>::products(problem, first, rows, run, columns, static_cast<float*>(out),
                                             out_stride);
#endif
        default:
            return Panel<float>::products(problem, first, rows, run, columns, static_cast<float*>(out),
                                          out_stride);
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
