#include "gram_weight.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// to[0 .. n) += from[0 .. n), for n that is often shorter than a vector.
template <typename T>
inline void add_run(T* to, const T* from, int64_t n) {
    for (; n >= kWidth<T>; n -= kWidth<T>, to += kWidth<T>, from += kWidth<T>)
        store(to, load(to) + load(from));
    if (n > 0) store(to, load(to, n) + load(from, n), n);
}

template <typename T>
class PixelSum {
  public:
    PixelSum(const PixelGramProblem& problem, const T* gram, int64_t gram_stride)
        : p_(problem), gram_(gram), gram_stride_(gram_stride) {}

    // out[t'] for t' >= t.
    void row(int64_t t, T* out) const {
        const int64_t w = t % p_.position[2], h = t / p_.position[2] % p_.position[1];
        const int64_t d = t / p_.position[2] / p_.position[1] % p_.position[0];
        const int64_t frame = t / p_.position[2] / p_.position[1] / p_.position[0];
        const int64_t positions = p_.frames * p_.position[0] * p_.position[1] * p_.position[2];
        for (int64_t j = t; j < positions; ++j) out[j] = 0;
        for (int64_t kd = 0; kd < p_.kernel[0]; ++kd)
            for (int64_t kh = 0; kh < p_.kernel[1]; ++kh)
                for (int64_t kw = 0; kw < p_.kernel[2]; ++kw) {
                    const int64_t shift[3] = {kd * p_.dilation[0] - p_.padding[0],
                                              kh * p_.dilation[1] - p_.padding[1],
                                              kw * p_.dilation[2] - p_.padding[2]};
                    if (inside(d + shift[0], 0) && inside(h + shift[1], 1) && inside(w + shift[2], 2))
                        add_tap(gram_ + pixel(frame, d + shift[0], h + shift[1], w + shift[2]) * gram_stride_,
                                shift, t, out);
                }
    }

  private:
    bool inside(int64_t at, int dim) const { return at >= 0 && at < p_.window[dim]; }

    int64_t pixel(int64_t frame, int64_t d, int64_t h, int64_t w) const {
        return ((frame * p_.window[0] + d) * p_.window[1] + h) * p_.window[2] + w;
    }

    // Adds, line by line, the products of one pixel with those that the tap falls on at the positions from t
    // on.
    void add_tap(const T* gram, const int64_t (&shift)[3], int64_t t, T* out) const {
        const int64_t width = p_.position[2], lines = p_.position[1], planes = p_.position[0];
        const int64_t w_begin = larger(0, -shift[2]), w_end = smaller(width, p_.window[2] - shift[2]);
        const int64_t h_begin = larger(0, -shift[1]), h_end = smaller(lines, p_.window[1] - shift[1]);
        const int64_t first_line = t / width, first_plane = first_line / lines;
        for (int64_t plane = first_plane; plane < p_.frames * planes; ++plane) {
            const int64_t d = plane % planes + shift[0];
            if (!inside(d, 0)) continue;
            for (int64_t h = plane == first_plane ? larger(h_begin, first_line % lines) : h_begin; h < h_end;
                 ++h) {
                const int64_t line = plane * lines + h;
                const int64_t w = line == first_line ? larger(w_begin, t % width) : w_begin;
                if (w < w_end)
                    add_run(out + line * width + w,
                            gram + pixel(plane / planes, d, h + shift[1], w + shift[2]), w_end - w);
            }
        }
    }

    const PixelGramProblem& p_;
    const T* gram_;
    int64_t gram_stride_;
};

template <typename T>
void sum_pixels(const PixelGramProblem& problem, int64_t begin, int64_t end, const T* gram,
                int64_t gram_stride, T* out, int64_t out_stride) {
    const PixelSum<T> sum(problem, gram, gram_stride);
    for (int64_t t = begin; t < end; ++t) sum.row(t, out + t * out_stride);
}

template <typename T>
void double_rows(int64_t begin, int64_t end, int64_t n, T* matrix, int64_t stride) {
    for (int64_t i = begin; i < end; ++i) {
        T* row = matrix + i * stride;
        for (int64_t j = 0; j < smaller(i, stride); ++j) row[j] = 0;
        for (int64_t j = i + 1; j < n; ++j) row[j] *= 2;
        for (int64_t j = i < n ? n : 0; j < stride; ++j) row[j] = 0;
    }
}

}  // namespace

void sum_pixel_gram(const PixelGramProblem& problem, int64_t begin, int64_t end, const void* pixel_gram,
                    int64_t pixel_stride, void* out, int64_t out_stride) {
    if (problem.element == Element::f64)
        sum_pixels(problem, begin, end, static_cast<const double*>(pixel_gram), pixel_stride,
                   static_cast<double*>(out), out_stride);
    else
        sum_pixels(problem, begin, end, static_cast<const float*>(pixel_gram), pixel_stride,
                   static_cast<float*>(out), out_stride);
}

void double_upper(Element element, int64_t begin, int64_t end, int64_t n, void* matrix, int64_t stride) {
    if (element == Element::f64)
        double_rows(begin, end, n, static_cast<double*>(matrix), stride);
    else
        double_rows(begin, end, n, static_cast<float*>(matrix), stride);
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
