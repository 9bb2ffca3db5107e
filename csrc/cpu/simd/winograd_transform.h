// One-dimensional transforms of F(4, 3) and F(3, 4) at the points 0, +-1/sqrt(2), +-sqrt(2), infinity: of the
// sets with cheap transforms, the most accurate (a fifth of the error of 0, +-1, +-2). Two-dimensional: rows,
// then columns. The data transform B is the same for both, as both have 6 = 4 + 3 - 1 points.
#pragma once

#include "multiply.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

using V = Vec<float>;
constexpr int kLanes = kWidth<float>;

constexpr int kTile = 6;  // points, and edge of a tile of g
constexpr int kOut = 4;   // edge of a tile of dx, and of x
constexpr int kFrequencies = kTile * kTile;
constexpr float kA = 0.70710678118654752f;  // the points +-a and +-b; ab = 1, a^2 = 1/2, b^2 = 2
constexpr float kB = 1.41421356237309505f;

// B': 6 values of g to 6 frequencies.
inline void data_transform(const V (&d)[6], V (&r)[6]) {
    const V even_a = d[4] - 2.0f * d[2], odd_a = d[3] - 2.0f * d[1];
    const V even_b = d[4] - 0.5f * d[2], odd_b = d[3] - 0.5f * d[1];
    r[0] = d[0] - 2.5f * d[2] + d[4];
    r[1] = even_a + kA * odd_a;
    r[2] = even_a - kA * odd_a;
    r[3] = even_b + kB * odd_b;
    r[4] = even_b - kB * odd_b;
    r[5] = d[1] - 2.5f * d[3] + d[5];
}

// G: 3 taps of a filter to 6 frequencies. The divisors are products of differences of the points.
inline void filter_transform(const V (&h)[3], V (&r)[6]) {
    const V even_a = (h[0] + 0.5f * h[2]) * (-2.0f / 3.0f), odd_a = h[1] * (-2.0f / 3.0f * kA);
    const V even_b = (h[0] + 2.0f * h[2]) * (1.0f / 6.0f), odd_b = h[1] * (kB / 6.0f);
    r[0] = h[0];
    r[1] = even_a + odd_a;
    r[2] = even_a - odd_a;
    r[3] = even_b + odd_b;
    r[4] = even_b - odd_b;
    r[5] = h[2];
}

// G4: 4 values of x, as a filter of 4 taps, to 6 frequencies.
inline void filter_transform(const V (&h)[4], V (&r)[6]) {
    const V even_a = (h[0] + 0.5f * h[2]) * (-2.0f / 3.0f),
            odd_a = (h[1] + 0.5f * h[3]) * (-2.0f / 3.0f * kA);
    const V even_b = (h[0] + 2.0f * h[2]) * (1.0f / 6.0f), odd_b = (h[1] + 2.0f * h[3]) * (kB / 6.0f);
    r[0] = h[0];
    r[1] = even_a + odd_a;
    r[2] = even_a - odd_a;
    r[3] = even_b + odd_b;
    r[4] = even_b - odd_b;
    r[5] = h[3];
}

// A': 6 frequencies to 4 values of dx.
inline void output_transform(const V (&m)[6], V (&r)[4]) {
    const V sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const V sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    r[0] = m[0] + sum_a + sum_b;
    r[1] = kA * difference_a + kB * difference_b;
    r[2] = 0.5f * sum_a + 2.0f * sum_b;
    r[3] = (0.5f * kA) * difference_a + (2.0f * kB) * difference_b + m[5];
}

// A3': 6 frequencies to 3 taps of the weight gradient.
inline void output_transform(const V (&m)[6], V (&r)[3]) {
    const V sum_a = m[1] + m[2], sum_b = m[3] + m[4];
    r[0] = m[0] + sum_a + sum_b;
    r[1] = kA * (m[1] - m[2]) + kB * (m[3] - m[4]);
    r[2] = 0.5f * sum_a + 2.0f * sum_b + m[5];
}

// Where a transform puts its 36 frequencies, each one vector of channels.
struct FloatSink {
    float* out;
    int64_t stride;
    FloatSink at(int64_t channel) const { return {out + channel, stride}; }
    void operator()(int frequency, V v) const { store(out + frequency * stride, v); }
};

#if defined(__AVX512BF16__)
// The tiles of an image in pairs, of which a frequency fills the even or the odd half. The even one comes
// first.
struct PairSink {
    Bf16Pair* out;
    int64_t stride;
    bool odd;
    PairSink at(int64_t channel) const { return {out + channel, stride, odd}; }
    void operator()(int frequency, V v) const {
        __m512i* pairs = reinterpret_cast<__m512i*>(out + frequency * stride);
        const __m512i bits = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
        const __m512i half =
            odd ? _mm512_or_si512(_mm512_loadu_si512(pairs), _mm512_slli_epi32(bits, 16)) : bits;
        _mm512_storeu_si512(pairs, half);
    }
};
#endif

template <typename First, typename Second>
struct BothSinks {
    First first;
    Second second;
    BothSinks at(int64_t channel) const { return {first.at(channel), second.at(channel)}; }
    void operator()(int frequency, V v) const {
        first(frequency, v);
        second(frequency, v);
    }
};

template <typename First, typename Second>
inline BothSinks<First, Second> both(const First& first, const Second& second) {
    return {first, second};
}

// Where the 36 pixels of a tile of g lie, and those of its mask; pixels outside of the image point to zeros.
template <typename T>
struct TilePixels {
    const T* g[kFrequencies];
    const T* mask[kFrequencies];
    int64_t next;  // distance to the next tile of the row, in elements
};

// A tile of g to its frequencies, for the channels at `channel`, of which `valid` are there.
template <bool Full, bool Masked, typename T, typename Sink>
inline void transform_data_tile(const TilePixels<T>& pixels, int64_t channel, int64_t valid,
                                const Sink& sink) {
    V rows[kTile][kTile], d[kTile], r[kTile];
    for (int y = 0; y < kTile; ++y) {
        for (int x = 0; x < kTile; ++x) {
            const T* g = pixels.g[y * kTile + x] + channel;
            d[x] = Full ? load(g) : load(g, valid);
            // Those of the next tile that no tile before it has read.
            if (y >= kTile - kOut && x >= kTile - kOut) __builtin_prefetch(g + pixels.next);
            if constexpr (Masked) {
                const T* mask = pixels.mask[y * kTile + x] + channel;
                d[x] = (Full ? load(mask) : load(mask, valid)) > 0 ? d[x] : V{};
            }
        }
        data_transform(d, rows[y]);
    }
    for (int x = 0; x < kTile; ++x) {
        for (int y = 0; y < kTile; ++y) d[y] = rows[y][x];
        data_transform(d, r);
        for (int y = 0; y < kTile; ++y) sink(y * kTile + x, r[y]);
    }
}

// N x N values (3x3 of a weight, 4x4 of x) to 6x6 frequencies.
template <int N, typename Sink>
inline void transform_filter_tile(const V (&values)[N][N], const Sink& sink) {
    V rows[N][kTile], h[N], r[kTile];
    for (int y = 0; y < N; ++y) filter_transform(values[y], rows[y]);
    for (int x = 0; x < kTile; ++x) {
        for (int y = 0; y < N; ++y) h[y] = rows[y][x];
        filter_transform(h, r);
        for (int y = 0; y < kTile; ++y) sink(y * kTile + x, r[y]);
    }
}

// 6x6 frequencies to N x N values (4x4 of dx, 3x3 of the weight gradient).
template <int N>
inline void transform_output_tile(const float* in, int64_t in_stride, V (&values)[N][N]) {
    V columns[N][kTile], m[kTile], r[N];
    for (int x = 0; x < kTile; ++x) {
        for (int y = 0; y < kTile; ++y) m[y] = load(in + (y * kTile + x) * in_stride);
        output_transform(m, r);
        for (int y = 0; y < N; ++y) columns[y][x] = r[y];
    }
    for (int y = 0; y < N; ++y) output_transform(columns[y], values[y]);
}

}  // namespace
}  // namespace gradfast::cpu::GRADFAST_ARCH
