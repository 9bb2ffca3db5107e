#include "depthwise.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr int kTaps = 9;  // summed at once; a 3 x 3 kernel in one pass

// Vectors of channels at once: neighbouring cache lines, where there are registers for the sums.
constexpr int kVectors = kRegisters == 32 ? 2 : 1;

template <typename T, int Vectors, typename Read>
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
        Vec<T> sums[kTaps][Vectors] = {};
        for (int64_t line = 0; line < w.lines; ++line) {
            int64_t at = w.line[line];
            for (int64_t i = 0; i < w.width; ++i, at += w.step, p += problem.p.stride) {
#pragma GCC unroll 2
                for (int v = 0; v < Vectors; ++v) {
                    const Vec<T> g = read(p + v * kWidth<T>);
#pragma GCC unroll 9
                    for (int k = 0; k < kTaps; ++k) sums[k][v] += g * read(u[k] + at + v * kWidth<T>);
                }
            }
        }
        for (int k = 0; k < kTaps && tap + k < problem.taps; ++k)
            for (int v = 0; v < Vectors; ++v) total += sum(sums[k][v] * sums[k][v]);
    }
    return total;
}

template <typename T>
double square_sum_of(const DepthwiseProblem& problem, int64_t first, int64_t count) {
    const auto whole = [](const T* p) __attribute__((always_inline)) { return load(p); };
    if (count == kVectors * kWidth<T>) return square_sum_of<T, kVectors>(problem, first, whole);
    double total = 0;
    for (; count >= kWidth<T>; count -= kWidth<T>, first += kWidth<T>)
        total += square_sum_of<T, 1>(problem, first, whole);
    if (count > 0)
        total += square_sum_of<T, 1>(
            problem, first, [count](const T* p) __attribute__((always_inline)) { return load(p, count); });
    return total;
}

}  // namespace

int64_t depthwise_channels(Element element) {
    return kVectors * (element == Element::f64 ? kWidth<double> : kWidth<float>);
}

double depthwise_square_sum(const DepthwiseProblem& problem, int64_t first, int64_t count) {
    return problem.element == Element::f64 ? square_sum_of<double>(problem, first, count)
                                           : square_sum_of<float>(problem, first, count);
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
