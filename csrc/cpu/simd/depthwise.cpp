#include "depthwise.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr int kTaps = 9;  // summed at once; a 3 x 3 kernel in one pass

template <typename T, typename Read>
double square_sum_of(const DepthwiseProblem& problem, int64_t first, Read read) {
    const Windows& w = problem.u;
    double total = 0;
    for (int64_t tap = 0; tap < problem.taps; tap += kTaps) {
        const T* u[kTaps];
        // Past the last tap the first is read again; its sum is not used.
        for (int k = 0; k < kTaps; ++k)
            u[k] =
                static_cast<const T*>(w.data) + problem.tap[tap + k < problem.taps ? tap + k : tap] + first;
        const T* p = static_cast<const T*>(problem.p.data) + first;
        Vec<T> sums[kTaps] = {};
        for (int64_t line = 0; line < w.lines; ++line) {
            int64_t at = w.line[line];
            for (int64_t i = 0; i < w.width; ++i, at += w.step, p += problem.p.stride) {
                const Vec<T> g = read(p);
#pragma GCC unroll 9
                for (int k = 0; k < kTaps; ++k) sums[k] += g * read(u[k] + at);
            }
        }
        for (int k = 0; k < kTaps && tap + k < problem.taps; ++k) total += sum(sums[k] * sums[k]);
    }
    return total;
}

template <typename T>
double square_sum_of(const DepthwiseProblem& problem, int64_t first, int64_t count) {
    if (count == kWidth<T>)
        return square_sum_of<T>(problem, first,
                                [](const T* p) __attribute__((always_inline)) { return load(p); });
    return square_sum_of<T>(problem, first,
                            [count](const T* p) __attribute__((always_inline)) { return load(p, count); });
}

}  // namespace

double depthwise_square_sum(const DepthwiseProblem& problem, int64_t first, int64_t count) {
    return problem.element == Element::f64 ? square_sum_of<double>(problem, first, count)
                                           : square_sum_of<float>(problem, first, count);
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
