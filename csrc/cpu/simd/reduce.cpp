#include "reduce.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr int64_t kBlock = 4096;  // terms added in the operands' precision; blocks are added in double

// sum_i term(i), with `term` giving whole vectors or the first lanes of one.
template <typename A, typename Term, typename Tail>
double blocked_sum(int64_t n, Term term, Tail tail) {
    constexpr int64_t width = kWidth<A>;
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t end = smaller(begin + kBlock, n);
        Vec<A> sums[4] = {};
        int64_t i = begin;
        for (; i + 4 * width <= end; i += 4 * width)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) sums[k] += term(i + k * width);
        for (; i + width <= end; i += width) sums[0] += term(i);
        if (i < end) sums[1] += tail(i, end - i);
        total += sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    return total;
}

template <typename S>
double square_sum_of(const void* data, int64_t n) {
    const S* x = static_cast<const S*>(data);
    const auto square = [](Vec<Accumulator<S>> v) { return v * v; };
    return blocked_sum<Accumulator<S>>(
        n, [&](int64_t i) { return square(load(x + i)); },
        [&](int64_t i, int64_t k) { return square(load(x + i, k)); });
}

template <typename S>
double dot_of(const void* data, const void* other, int64_t n) {
    const S* x = static_cast<const S*>(data);
    const auto* y = static_cast<const Accumulator<S>*>(other);
    return blocked_sum<Accumulator<S>>(
        n, [&](int64_t i) { return load(x + i) * load(y + i); },
        [&](int64_t i, int64_t k) { return load(x + i, k) * load(y + i, k); });
}

}  // namespace

double square_sum(Storage storage, const void* x, int64_t n) {
    switch (storage) {
        case Storage::f64:
            return square_sum_of<double>(x, n);
        case Storage::bf16:
            return square_sum_of<Bf16>(x, n);
        case Storage::f16:
            return square_sum_of<Fp16>(x, n);
        default:
            return square_sum_of<float>(x, n);
    }
}

double dot(Storage storage, const void* x, const void* y, int64_t n) {
    switch (storage) {
        case Storage::f64:
            return dot_of<double>(x, y, n);
        case Storage::bf16:
            return dot_of<Bf16>(x, y, n);
        case Storage::f16:
            return dot_of<Fp16>(x, y, n);
        default:
            return dot_of<float>(x, y, n);
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
