#include "gate.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr std::int64_t kLane = 64;  // channels whose sums stay in registers over a tile of positions

inline float load(const float* p) {
    return *p;
}
inline double load(const double* p) {
    return *p;
}
inline float load(const std::uint16_t* p) {
    const std::uint32_t bits = static_cast<std::uint32_t>(*p) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

inline void store(float* p, float v) {
    *p = v;
}
inline void store(double* p, double v) {
    *p = v;
}
// Round to nearest, ties to even; a NaN stays one.
inline void store(std::uint16_t* p, float v) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    *p = static_cast<std::uint16_t>(v == v ? rounded : (bits >> 16) | 0x40u);
}

// The gate as a factor, and the normalized inputs, of `n` positions from `first` on: computed once for all
// rows.
template <class T, class A>
void prepare(const Gate& job, std::int64_t first, std::int64_t n, A* factor, A* const* xhat) {
    const std::int64_t count = n * job.channels, from = first * job.channels;
    if (job.gate) {
        const T* gate = static_cast<const T*>(job.gate) + from;
        if (job.multiply) {
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) factor[i] = load(gate + i);
        } else {
            // Open at NaN, as autograd's is.
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) factor[i] = load(gate + i) <= 0 ? A(0) : A(1);
        }
    }
    for (int k = 0; k < job.affine; ++k) {
        const A* mean = static_cast<const A*>(job.mean[k]);
        const A* rstd = static_cast<const A*>(job.rstd[k]);
        for (std::int64_t t = 0; t < n; ++t) {
            const T* x = static_cast<const T*>(job.x[k]) + from + t * job.channels;
            A* to = xhat[k] + t * job.channels;
#pragma omp simd
            for (std::int64_t o = 0; o < job.channels; ++o) to[o] = (load(x + o) - mean[o]) * rstd[o];
        }
    }
}

template <class T, class A, bool gated, bool two, int affine>
void one_row(const Gate& job, std::int64_t row, std::int64_t first, std::int64_t n, const A* gate,
             A* const* xhat) {
    const std::int64_t channels = job.channels, from = row * job.out_row + first * channels;
    const std::int64_t from_g = row * job.g_row + first * channels;
    const T* g = static_cast<const T*>(job.g) + from_g;
    const T* other = two ? static_cast<const T*>(job.other) + from_g : nullptr;
    T* out = job.out ? static_cast<T*>(job.out) + from : nullptr;
    A* bias = static_cast<A*>(job.bias) + row * job.sum_row;
    A* sum[kMaxAffine] = {};
    T* scaled[kMaxAffine] = {};
    const A* factor[kMaxAffine] = {};
    for (int k = 0; k < affine; ++k) {
        sum[k] = static_cast<A*>(job.scale[k]) + row * job.sum_row;
        scaled[k] = job.scaled[k] ? static_cast<T*>(job.scaled[k]) + from : nullptr;
        factor[k] = static_cast<const A*>(job.factor[k]);
    }
    A value[kLane];
    for (std::int64_t o = 0; o < channels; o += kLane) {
        const std::int64_t width = channels - o < kLane ? channels - o : kLane;
        A total[1 + kMaxAffine][kLane] = {};
        for (std::int64_t t = 0; t < n; ++t) {
            const std::int64_t at = t * channels + o;
#pragma omp simd
            for (std::int64_t i = 0; i < width; ++i) {
                A v = load(g + at + i);
                if (two) v += load(other + at + i);
                // A closed gate stops NaN, as autograd's does.
                if (gated) v = gate[at + i] == A(0) ? A(0) : v * gate[at + i];
                value[i] = v;
                total[0][i] += v;
                if (affine > 0) total[1][i] += v * xhat[0][at + i];
                if (affine > 1) total[2][i] += v * xhat[1][at + i];
            }
            if (out) {
#pragma omp simd
                for (std::int64_t i = 0; i < width; ++i) store(out + at + i, value[i]);
            }
            for (int k = 0; k < affine; ++k) {
                if (!scaled[k]) continue;
#pragma omp simd
                for (std::int64_t i = 0; i < width; ++i)
                    store(scaled[k] + at + i, value[i] * factor[k][o + i]);
            }
        }
        for (std::int64_t i = 0; i < width; ++i) {
            bias[o + i] += total[0][i];
            for (int k = 0; k < affine; ++k) sum[k][o + i] += total[1 + k][i];
        }
    }
}

template <class T, class A, bool gated, bool two>
void all_rows(const Gate& job, std::int64_t first, std::int64_t n, const A* gate, A* const* xhat) {
    for (std::int64_t row = 0; row < job.rows; ++row) {
        if (job.affine == 0) one_row<T, A, gated, two, 0>(job, row, first, n, gate, xhat);
        if (job.affine == 1) one_row<T, A, gated, two, 1>(job, row, first, n, gate, xhat);
        if (job.affine == 2) one_row<T, A, gated, two, 2>(job, row, first, n, gate, xhat);
    }
}

template <class T, class A>
void run(const Gate& job) {
    const std::int64_t tile = gate_tile(job.channels);
    A* gate = static_cast<A*>(job.scratch);
    A* xhat[kMaxAffine] = {gate + tile * job.channels, gate + 2 * tile * job.channels};
    for (std::int64_t first = 0; first < job.positions; first += tile) {
        const std::int64_t n = job.positions - first < tile ? job.positions - first : tile;
        prepare<T, A>(job, first, n, gate, xhat);
        if (job.gate && job.other) all_rows<T, A, true, true>(job, first, n, gate, xhat);
        if (job.gate && !job.other) all_rows<T, A, true, false>(job, first, n, gate, xhat);
        if (!job.gate && job.other) all_rows<T, A, false, true>(job, first, n, gate, xhat);
        if (!job.gate && !job.other) all_rows<T, A, false, false>(job, first, n, gate, xhat);
    }
}

}  // namespace

void gate_sums(const Gate& job) {
    if (job.storage == Storage::f64) run<double, double>(job);
    if (job.storage == Storage::f32) run<float, float>(job);
    if (job.storage == Storage::bf16) run<std::uint16_t, float>(job);
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
