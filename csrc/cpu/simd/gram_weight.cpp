#include "gram_weight.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

template <typename T>
class PixelSum {
  public:
    PixelSum(const PixelGramProblem& problem, const T* gram, int64_t gram_stride)
        : p(problem),
          gram(gram),
          gram_stride(gram_stride),
          lines(p.frames * p.position[0] * p.position[1]),
          width(p.position[2]) {}

    void row(int64_t t, T* out) const {
        const Line line = line_of(t / width);
        for (int64_t j = t; j < lines * width; ++j) out[j] = 0;
        for (int64_t other = t / width; other < lines; ++other) {
            const int64_t first = other == t / width ? t % width : 0;
            add_line(line, t % width, line_of(other), first, out + other * width);
        }
    }

  private:
    struct Line {
        int64_t frame, depth, height;
    };

    Line line_of(int64_t index) const {
        return {index / (p.position[0] * p.position[1]), index / p.position[1] % p.position[0],
                index % p.position[1]};
    }

    // Index of the first pixel of the line that a tap of this line falls on, or -1.
    int64_t pixels(const Line& line, int64_t tap_depth, int64_t tap_height) const {
        const int64_t d = line.depth - p.padding[0] + tap_depth * p.dilation[0];
        const int64_t h = line.height - p.padding[1] + tap_height * p.dilation[1];
        if (d < 0 || d >= p.window[0] || h < 0 || h >= p.window[1]) return -1;
        return ((line.frame * p.window[0] + d) * p.window[1] + h) * p.window[2];
    }

    void add_line(const Line& line, int64_t x, const Line& other, int64_t first, T* out) const {
        for (int64_t kd = 0; kd < p.kernel[0]; ++kd)
            for (int64_t kh = 0; kh < p.kernel[1]; ++kh) {
                const int64_t here = pixels(line, kd, kh), there = pixels(other, kd, kh);
                if (here < 0 || there < 0) continue;
                for (int64_t kw = 0; kw < p.kernel[2]; ++kw) {
                    const int64_t shift = kw * p.dilation[2] - p.padding[2];
                    if (x + shift < 0 || x + shift >= p.window[2]) continue;
                    const T* g = gram + (here + x + shift) * gram_stride + there + shift;
                    const int64_t last = smaller(width, p.window[2] - shift);
                    for (int64_t j = larger(first, -shift); j < last; ++j) out[j] += g[j];
                }
            }
    }

    const PixelGramProblem& p;
    const T* gram;
    int64_t gram_stride, lines, width;
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
