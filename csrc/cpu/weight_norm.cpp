#include "weight_norm.h"

#include <algorithm>

#include "panels.h"
#include "parallel.h"
#include "simd/depthwise.h"
#include "simd/gram_weight.h"
#include "simd/inner.h"
#include "simd/reduce.h"

namespace gradfast::cpu {
namespace {

// Positions whose products with all later ones make one item of work: a multiple of kInnerAlign.
constexpr int64_t kPartPositions = 4 * kInnerAlign;

// What the inner products are taken with: groups of rows, each of one line of the gradient. Empty without
// one.
struct Reference {
    const char* data = nullptr;
    int64_t stride = 0, group_bytes = 0, element_bytes = 0;

    const void* at(int64_t group, int64_t column) const {
        return data == nullptr ? nullptr : data + group * group_bytes + column * element_bytes;
    }
};

// One operand is shared by all rows, the other one is there for each row; a subclass turns them into norms.
class Norms {
  public:
    virtual ~Norms() = default;

    // Makes ready what the rows of this sample and group share.
    virtual void share(int64_t sample, int64_t group) = 0;

    // A row's norm is the sum of this many parts, each one item of work.
    virtual int64_t parts() const = 0;
    virtual const void* load_row(OperandScratch& scratch, int64_t row, int64_t sample,
                                 int64_t group) const = 0;
    virtual SquareSumAndDot part(const void* row, int64_t part) const = 0;
};

class DirectNorms final : public Norms {
  public:
    DirectNorms(const ConvShape& s, const Image& p, const Image& u, Element element, const Reference& ref)
        : ref_(ref),
          rows_are_windows_(s.transposed),
          windows_(window_operand(s, u, element, Use::windows)),
          positions_(position_operand(s, p, element, Use::positions,
                                      element == Element::bf16 ? windows_->layout().line_width : 0)),
          problem_{element, {}, {}, s.position_channels},
          panels_(outer_panels(windows_->layout(), element)) {}

    void share(int64_t sample, int64_t group) override {
        shared_ = (rows_are_windows_ ? positions_ : windows_)->load(scratch_, 0, sample, group);
        group_ = group;
    }

    int64_t parts() const override { return static_cast<int64_t>(panels_.size()); }

    const void* load_row(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const override {
        return (rows_are_windows_ ? windows_ : positions_)->load(scratch, row, sample, group);
    }

    SquareSumAndDot part(const void* row, int64_t part) const override {
        OuterProblem problem = problem_;
        problem.p = positions_->layout().positions(rows_are_windows_ ? shared_ : row);
        problem.u = windows_->layout().windows(rows_are_windows_ ? row : shared_);
        const Panel& panel = panels_[part];
        return GRADFAST_SIMD(outer_square_sum)(problem, panel.begin, panel.columns,
                                               ref_.at(group_, panel.first), ref_.stride);
    }

  private:
    Reference ref_;
    bool rows_are_windows_;
    std::unique_ptr<Operand> windows_, positions_;
    OuterProblem problem_;
    std::vector<Panel> panels_;
    OperandScratch scratch_;
    const void* shared_ = nullptr;
    int64_t group_ = 0;
};

// sum of (S S') * (R R') for the shared operand S and the row's R.
class GramNorms final : public Norms {
  public:
    GramNorms(const ConvShape& s, const Image& p, const Image& u, Element element, bool from_pixels)
        : shape_(s),
          element_(element),
          positions_(s.positions()),
          padded_(ceil_div(positions_, kInnerAlign) * kInnerAlign) {
        auto windows =
            from_pixels ? pixel_operand(s, u, element) : window_operand(s, u, element, Use::vectors);
        auto positions = position_operand(s, p, element, Use::vectors, 0);
        shared_ = std::move(s.transposed ? positions : windows);
        rows_ = std::move(s.transposed ? windows : positions);
        pixels_ = from_pixels ? static_cast<int64_t>(shared_->layout().vector.size()) : 0;
    }

    void share(int64_t sample, int64_t group) override {
        const int64_t bytes = element_ == Element::f64 ? 8 : 4;
        const void* data = shared_->load(scratch_, 0, sample, group);
        weight_ = weight_buffer_.bytes(padded_ * padded_ * bytes);
        if (pixels_ > 0) {
            void* gram = pixel_buffer_.bytes(pixels_ * pixels_ * bytes);
            upper_gram(data, pixels_, gram, pixels_);
            sum_pixels(gram);
        } else {
            upper_gram(data, positions_, weight_, padded_);
        }
        const auto kernel = GRADFAST_SIMD(double_upper);
        at::parallel_for(0, padded_, kPartPositions, [&](int64_t begin, int64_t end) {
            kernel(element_, begin, end, positions_, weight_, padded_);
        });
    }

    int64_t parts() const override { return ceil_div(positions_, kPartPositions); }

    const void* load_row(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const override {
        return rows_->load(scratch, row, sample, group);
    }

    SquareSumAndDot part(const void* row, int64_t part) const override {
        const int64_t begin = part * kPartPositions;
        return {GRADFAST_SIMD(weighted_inner_products)(problem(*rows_, row, positions_), begin,
                                                       std::min(begin + kPartPositions, positions_), weight_,
                                                       padded_),
                0};
    }

  private:
    InnerProblem problem(const Operand& operand, const void* data, int64_t count) const {
        const OperandLayout& layout = operand.layout();
        const Vectors vectors = layout.vectors(data);
        return {element_,         vectors, vectors, count, count, static_cast<int64_t>(layout.run.size()),
                layout.run_length};
    }

    void upper_gram(const void* data, int64_t count, void* out, int64_t stride) const {
        const auto kernel = GRADFAST_SIMD(inner_products);
        const InnerProblem p = problem(*shared_, data, count);
        at::parallel_for(0, ceil_div(count, kPartPositions), 1, [&](int64_t begin, int64_t end) {
            kernel(p, begin * kPartPositions, std::min(end * kPartPositions, count), /*upper=*/true,
                   /*accumulate=*/false, out, stride);
        });
    }

    void sum_pixels(const void* gram) const {
        const ConvShape& s = shape_;
        PixelGramProblem p{element_, s.frames, {}, {}, {}, {}, {}};
        for (int i = 0; i < 3; ++i) {
            p.position[i] = s.position[i];
            p.window[i] = s.window[i];
            p.kernel[i] = s.kernel[i];
            p.padding[i] = s.padding[i];
            p.dilation[i] = s.dilation[i];
        }
        const auto kernel = GRADFAST_SIMD(sum_pixel_gram);
        at::parallel_for(0, positions_, kPartPositions, [&](int64_t begin, int64_t end) {
            kernel(p, begin, end, gram, pixels_, weight_, padded_);
        });
    }

    ConvShape shape_;
    Element element_;
    int64_t positions_, padded_, pixels_;
    std::unique_ptr<Operand> shared_, rows_;
    OperandScratch scratch_;
    Buffer weight_buffer_, pixel_buffer_;
    void* weight_ = nullptr;
};

// One channel to a group: the groups are the lanes of the vectors.
class DepthwiseNorms final : public Norms {
  public:
    DepthwiseNorms(const ConvShape& s, const Image& p, const Image& u, Element element)
        : rows_are_windows_(s.transposed), channels_(s.groups) {
        ConvShape all = s;
        all.groups = 1;
        all.position_channels = all.window_channels = s.groups;
        windows_ = window_operand(all, u, element, Use::taps);
        positions_ = position_operand(all, p, element, Use::taps, 0);
        problem_.element = element;
        problem_.tap = windows_->layout().run.data();
        problem_.taps = static_cast<int64_t>(windows_->layout().run.size());
        part_channels_ = GRADFAST_SIMD(depthwise_channels)(element);
    }

    void share(int64_t sample, int64_t) override {
        shared_ = (rows_are_windows_ ? positions_ : windows_)->load(scratch_, 0, sample, 0);
    }

    int64_t parts() const override { return ceil_div(channels_, part_channels_); }

    const void* load_row(OperandScratch& scratch, int64_t row, int64_t sample, int64_t) const override {
        return (rows_are_windows_ ? windows_ : positions_)->load(scratch, row, sample, 0);
    }

    SquareSumAndDot part(const void* row, int64_t part) const override {
        DepthwiseProblem problem = problem_;
        problem.p = positions_->layout().positions(rows_are_windows_ ? shared_ : row);
        problem.u = windows_->layout().windows(rows_are_windows_ ? row : shared_);
        return {
            GRADFAST_SIMD(depthwise_square_sum)(problem, part * part_channels_,
                                                std::min(part_channels_, channels_ - part * part_channels_)),
            0};
    }

  private:
    bool rows_are_windows_;
    int64_t channels_, part_channels_;
    std::unique_ptr<Operand> windows_, positions_;
    DepthwiseProblem problem_{};
    OperandScratch scratch_;
    const void* shared_ = nullptr;
};

// One position: the gradient is the outer product of two vectors.
class RankOneNorms final : public Norms {
  public:
    RankOneNorms(const ConvShape& s, const Image& p, const Image& u, Element element)
        : storage_(storage_of(element)),
          shared_(window_operand(s, u, element, Use::vectors)),
          rows_(position_operand(s, p, element, Use::vectors, 0)) {
        if (s.transposed) std::swap(shared_, rows_);
    }

    void share(int64_t sample, int64_t group) override {
        factor_ = square_sum(*shared_, shared_->load(scratch_, 0, sample, group));
    }

    int64_t parts() const override { return 1; }

    const void* load_row(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const override {
        return rows_->load(scratch, row, sample, group);
    }

    SquareSumAndDot part(const void* row, int64_t) const override {
        return {factor_ * square_sum(*rows_, row), 0};
    }

  private:
    double square_sum(const Operand& operand, const void* data) const {
        const auto kernel = GRADFAST_SIMD(square_sum);
        double total = 0;
        for (const int64_t run : operand.layout().run)
            total += kernel(storage_, static_cast<const char*>(data) + run * bytes_of(storage_),
                            operand.layout().run_length);
        return total;
    }

    Storage storage_;
    std::unique_ptr<Operand> shared_, rows_;
    OperandScratch scratch_;
    double factor_ = 0;
};

bool depthwise(const ConvShape& s, Form form) {
    return form == Form::direct && s.position_channels == 1 && s.window_channels == 1 && s.groups > 1;
}

std::unique_ptr<Norms> make_norms(const ConvShape& s, const Image& x, const Image& g, Form form,
                                  const Reference& ref) {
    const Image &p = s.transposed ? x : g, &u = s.transposed ? g : x;
    const Element element = element_of(x.storage);
    if (depthwise(s, form))
        return std::make_unique<DepthwiseNorms>(s, p, u, element == Element::f64 ? element : Element::f32);
    if (form == Form::direct) return std::make_unique<DirectNorms>(s, p, u, element, ref);
    if (form == Form::rank_one) return std::make_unique<RankOneNorms>(s, p, u, element);
    return std::make_unique<GramNorms>(s, p, u, element, form == Form::pixel_gram);
}

void store(Storage storage, void* out, int64_t i, double value) {
    if (storage == Storage::f64)
        static_cast<double*>(out)[i] = value;
    else
        static_cast<float*>(out)[i] = static_cast<float>(value);
}

// dots: null without a reference.
void sums(const ConvShape& s, const Image& x, const Image& g, Form form, const Reference& ref, void* out,
          void* dots) {
    const int64_t groups = depthwise(s, form) ? 1 : s.groups;
    each_sample(s.samples, [&](int64_t first, int64_t last) {
        const auto norms = make_norms(s, x, g, form, ref);
        const int64_t parts = norms->parts();
        OperandScratch own_scratch;
        std::vector<SquareSumAndDot> part(s.rows * parts), row(s.rows);
        for (int64_t b = first; b < last; ++b) {
            std::fill(row.begin(), row.end(), SquareSumAndDot{0, 0});
            for (int64_t group = 0; group < groups; ++group) {
                norms->share(b, group);
                const auto work = [&](OperandScratch& scratch, int64_t begin, int64_t end) {
                    const void* data = nullptr;
                    for (int64_t i = begin; i < end; ++i) {
                        if (i == begin || i % parts == 0)
                            data = norms->load_row(scratch, i / parts, b, group);
                        part[i] = norms->part(data, i % parts);
                    }
                };
                if (at::in_parallel_region()) {
                    work(own_scratch, 0, s.rows * parts);
                } else {
                    at::parallel_for(0, s.rows * parts, 1, [&](int64_t begin, int64_t end) {
                        OperandScratch scratch;
                        work(scratch, begin, end);
                    });
                }
                // In order, whatever the threads did.
                for (int64_t i = 0; i < s.rows * parts; ++i) {
                    row[i / parts].square_sum += part[i].square_sum;
                    row[i / parts].dot += part[i].dot;
                }
            }
            for (int64_t c = 0; c < s.rows; ++c) {
                const double norm = row[c].square_sum;
                // The Gram form can round below zero; a NaN stays.
                store(x.storage, out, b * s.rows + c, norm < 0 ? 0 : norm);
                if (dots != nullptr) store(x.storage, dots, b * s.rows + c, row[c].dot);
            }
        }
    });
}

}  // namespace

void weight_sqnorm(const ConvShape& s, const Image& x, const Image& g, Form form, void* out) {
    sums(s, x, g, form, {}, out, nullptr);
}

bool forms_elements(const ConvShape& s, Form form) {
    return form == Form::direct && !depthwise(s, form);
}

void weight_sqnorm_and_dot(const ConvShape& s, const Image& x, const Image& g, Form form, const void* ref,
                           void* out, void* dots) {
    const int64_t bytes = x.storage == Storage::f64 ? 8 : 4, stride = s.window_width();
    sums(s, x, g, form, {static_cast<const char*>(ref), stride, s.position_channels * stride * bytes, bytes},
         out, dots);
}

}  // namespace gradfast::cpu
