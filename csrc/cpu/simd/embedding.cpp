#include "embedding.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// visit(column, sums, lanes) for each vector of columns of one token's sum.
template <typename S, typename Visit>
inline void each_vector(const void* data, int64_t stride, int64_t width, const TokenRuns& runs, int64_t token,
                        Visit visit) {
    using A = Accumulator<S>;
    const S* g = static_cast<const S*>(data);
    const int64_t *first = runs.order + runs.begin[token], *last = runs.order + runs.begin[token + 1];
    int64_t d = 0;
    for (; d + kWidth<A> <= width; d += kWidth<A>) {
        Vec<A> sums{};
        for (const int64_t* t = first; t != last; ++t) sums += load(g + *t * stride + d);
        visit(d, sums, kWidth<A>);
    }
    if (d < width) {
        Vec<A> sums{};
        for (const int64_t* t = first; t != last; ++t) sums += load(g + *t * stride + d, width - d);
        visit(d, sums, width - d);
    }
}

template <typename S>
double square_sum_of(const void* g, int64_t stride, int64_t width, const TokenRuns& runs) {
    using A = Accumulator<S>;
    double total = 0;
    for (int64_t token = 0; token < runs.tokens; ++token) {
        Vec<A> squares{};
        each_vector<S>(g, stride, width, runs, token,
                       [&](int64_t, Vec<A> sums, int64_t) { squares += sums * sums; });
        total += sum(squares);
    }
    return total;
}

template <typename S>
void sum_of(const void* g, int64_t stride, int64_t width, const TokenRuns& runs, int64_t token, void* out) {
    using A = Accumulator<S>;
    A* to = static_cast<A*>(out);
    each_vector<S>(g, stride, width, runs, token, [&](int64_t d, Vec<A> sums, int64_t lanes) {
        for (int64_t i = 0; i < lanes; ++i) to[d + i] = sums[i];
    });
}

}  // namespace

double token_square_sum(Storage storage, const void* g, int64_t stride, int64_t width,
                        const TokenRuns& runs) {
    switch (storage) {
        case Storage::f64:
            return square_sum_of<double>(g, stride, width, runs);
        case Storage::bf16:
            return square_sum_of<Bf16>(g, stride, width, runs);
        case Storage::f16:
            return square_sum_of<Fp16>(g, stride, width, runs);
        default:
            return square_sum_of<float>(g, stride, width, runs);
    }
}

void token_sum(Storage storage, const void* g, int64_t stride, int64_t width, const TokenRuns& runs,
               int64_t token, void* out) {
    switch (storage) {
        case Storage::f64:
            return sum_of<double>(g, stride, width, runs, token, out);
        case Storage::bf16:
            return sum_of<Bf16>(g, stride, width, runs, token, out);
        case Storage::f16:
            return sum_of<Fp16>(g, stride, width, runs, token, out);
        default:
            return sum_of<float>(g, stride, width, runs, token, out);
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
