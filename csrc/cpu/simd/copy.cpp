#include "copy.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

template <typename S, typename E>
struct Convert {
    static E one(S v) { return to_float(v); }
    static void run(const S* in, int64_t n, E* out) {
        int64_t i = 0;
        for (; i + kWidth<E> <= n; i += kWidth<E>) store(out + i, load(in + i));
        for (; i < n; ++i) out[i] = one(in[i]);
    }
};

template <typename E>
struct Convert<E, E> {
    static E one(E v) { return v; }
    static void run(const E* in, int64_t n, E* out) { __builtin_memcpy(out, in, n * sizeof(E)); }
};

template <typename S, typename E>
void copy(const Source& source, int64_t rows, int64_t columns, E* out, int64_t out_stride) {
    const S* in = static_cast<const S*>(source.data);
    if (source.column_stride == 1) {
        if (source.row_stride == columns && out_stride == columns)
            return Convert<S, E>::run(in, rows * columns, out);
        for (int64_t r = 0; r < rows; ++r)
            Convert<S, E>::run(in + r * source.row_stride, columns, out + r * out_stride);
        return;
    }
    constexpr int64_t kBlock = 16;  // both sides of a block stay in the first-level cache
    for (int64_t r0 = 0; r0 < rows; r0 += kBlock)
        for (int64_t c0 = 0; c0 < columns; c0 += kBlock)
            for (int64_t r = r0; r < smaller(r0 + kBlock, rows); ++r)
                for (int64_t c = c0; c < smaller(c0 + kBlock, columns); ++c)
                    out[r * out_stride + c] =
                        Convert<S, E>::one(in[r * source.row_stride + c * source.column_stride]);
}

}  // namespace

void copy_matrix(const Source& source, int64_t rows, int64_t columns, Element element, void* out,
                 int64_t out_stride) {
    float* floats = static_cast<float*>(out);
    switch (source.storage) {
        case Storage::f64:
            return copy<double>(source, rows, columns, static_cast<double*>(out), out_stride);
        case Storage::f32:
            return copy<float>(source, rows, columns, floats, out_stride);
        case Storage::f16:
            return copy<Fp16>(source, rows, columns, floats, out_stride);
        case Storage::bf16:
            if (element == Element::bf16)
                return copy<Bf16>(source, rows, columns, static_cast<Bf16*>(out), out_stride);
            return copy<Bf16>(source, rows, columns, floats, out_stride);
    }
}

void pair_bf16(const uint16_t* even, const uint16_t* odd, int64_t n, uint16_t* out) {
    int64_t i = 0;
#if defined(__AVX512BW__)
    const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0),
                  high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
    for (; i + 32 <= n; i += 32) {
        const __m512i a = _mm512_loadu_si512(even + i);
        const __m512i b = odd == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(odd + i);
        const __m512i l = _mm512_unpacklo_epi16(a, b), h = _mm512_unpackhi_epi16(a, b);
        _mm512_storeu_si512(out + 2 * i, _mm512_permutex2var_epi64(l, low, h));
        _mm512_storeu_si512(out + 2 * i + 32, _mm512_permutex2var_epi64(l, high, h));
    }
#endif
    for (; i < n; ++i) {
        out[2 * i] = even[i];
        out[2 * i + 1] = odd == nullptr ? 0 : odd[i];
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
