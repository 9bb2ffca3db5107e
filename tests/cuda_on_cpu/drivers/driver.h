// What the sanitizer drivers share: operands in allocations of their exact size, so that an overrun is seen,
// and a check against float64. A driver launches kernels as csrc/cuda does, without torch.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "../../../csrc/cuda/kernels/contraction.h"
#include "emulator.h"

namespace driver {

using namespace gradfast::cuda;

// n elements of a type that the kernels read, and their values.
template <class Element>
struct Data {
    std::unique_ptr<Element[]> element;
    std::vector<double> value;

    explicit Data(int64_t n, unsigned seed = 1) : element(new Element[n]), value(n) {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (int64_t i = 0; i < n; ++i) {
            element[i] = Element(normal(random));
            value[i] = static_cast<double>(static_cast<float>(element[i]));
        }
    }
};

inline void expect(const char* what, cudaError_t status) {
    if (status == cudaSuccess) return;
    std::printf("%s: launch failed\n", what);
    std::exit(1);
}

// wanted and actual agree to tolerance times scale.
inline void expect_close(const char* what, double actual, double wanted, double scale,
                         double tolerance = 1e-4) {
    if (std::abs(actual - wanted) <= tolerance * scale) return;  // false for NaN
    std::printf("%s: got %g, wanted %g\n", what, actual, wanted);
    std::exit(1);
}

// A linear layer's problem: x [samples, t, d], g [rows, samples, t, o].
template <class Element>
struct Linear {
    int64_t rows, samples, t, d, o;
    Data<Element> x, g;

    Linear(int64_t rows_, int64_t samples_, int64_t t_, int64_t d_, int64_t o_)
        : rows(rows_),
          samples(samples_),
          t(t_),
          d(d_),
          o(o_),
          x(samples_ * t_ * d_, 1),
          g(rows_ * samples_ * t_ * o_, 2) {}

    Operand window() const {
        Operand op;
        op.data = x.element.get();
        op.sample_stride = t * d;
        op.pixel_stride = op.width = static_cast<int32_t>(d);
        op.channels = Divisor(d);
        op.copy_bytes = copy_bytes(op.data, d, d, sizeof(Element));
        return op;
    }
    Operand position() const {
        Operand op;
        op.data = g.element.get();
        op.row_stride = samples * t * o;
        op.sample_stride = t * o;
        op.pixel_stride = op.width = static_cast<int32_t>(o);
        op.channels = Divisor(o);
        op.copy_bytes = copy_bytes(op.data, o, o, sizeof(Element));
        return op;
    }
    Positions positions() const {
        Positions p;
        p.count = static_cast<int32_t>(t);
        return p;
    }

    // The gradient of one row and sample, [o, d].
    std::vector<double> gradient(int64_t row, int64_t sample) const {
        std::vector<double> out(o * d, 0.0);
        for (int64_t s = 0; s < t; ++s)
            for (int64_t i = 0; i < o; ++i)
                for (int64_t j = 0; j < d; ++j)
                    out[i * d + j] += g.value[((row * samples + sample) * t + s) * o + i] *
                                      x.value[(sample * t + s) * d + j];
        return out;
    }
};

inline double inner(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

inline int32_t tiles(int64_t extent, int tile) {
    return static_cast<int32_t>((extent + tile - 1) / tile);
}

}  // namespace driver
