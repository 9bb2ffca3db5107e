#include "weight_gram.h"

#include <algorithm>

#include "panels.h"
#include "parallel.h"
#include "simd/inner.h"
#include "simd/outer.h"

namespace gradfast::cpu {
namespace {

constexpr int64_t kRowBlock =
    kInnerAlign;  // rows whose products with A, or with each other, are one item of work
constexpr int64_t kTileElements = 1 << 18;  // of the rows' tiles of the gradient, together
constexpr int64_t kLeastTileChannels = 8;

// The operands of one sample and group: one shared by the rows, one for each row.
class RowGram {
  public:
    RowGram(const ConvShape& s, const Image& x, const Image& g, Element element)
        : shape_(s),
          element_(element),
          windows_(window_operand(s, s.transposed ? g : x, element, Use::windows)),
          positions_(position_operand(s, s.transposed ? x : g, element,
                                      s.transposed ? Use::positions : Use::windows, 0)),
          row_scratch_(s.rows),
          row_data_(s.rows) {}
    virtual ~RowGram() = default;

    // Adds to gram [C, C], at least where d >= c.
    void add(int64_t sample, int64_t group, void* gram) {
        at::parallel_for(0, shape_.rows, 1, [&](int64_t begin, int64_t end) {
            for (int64_t c = begin; c < end; ++c)
                row_data_[c] = row_operand().load(row_scratch_[c], c, sample, group);
        });
        add_shared(sample, group, gram);
    }

  protected:
    virtual void add_shared(int64_t sample, int64_t group, void* gram) = 0;

    const Operand& row_operand() const { return shape_.transposed ? *windows_ : *positions_; }
    int64_t bytes() const { return bytes_of(element_); }

    ConvShape shape_;
    Element element_;
    std::unique_ptr<Operand> windows_, positions_;
    std::vector<OperandScratch> row_scratch_;
    std::vector<const void*> row_data_;
};

// Tiles of the gradients of all rows at once.
class DirectGram final : public RowGram {
  public:
    DirectGram(const ConvShape& s, const Image& x, const Image& g, Element element)
        : RowGram(s, x, g, element), panels_(outer_panels(windows_->layout(), element)) {}

  private:
    void add_shared(int64_t sample, int64_t group, void* gram) override {
        const Operand& shared = shape_.transposed ? *positions_ : *windows_;
        shared_ = shared.load(shared_scratch_, 0, sample, group);
        for (const Panel& panel : panels_) {
            const int64_t fit = kTileElements / (shape_.rows * panel.columns);
            const int64_t channels =
                std::max(kLeastTileChannels, fit / kLeastTileChannels * kLeastTileChannels);
            for (int64_t first = 0; first < shape_.position_channels; first += channels)
                add_tile(panel, first, std::min(channels, shape_.position_channels - first), gram);
        }
    }

    void add_tile(const Panel& panel, int64_t first, int64_t channels, void* gram) {
        const int64_t size = channels * panel.columns, rows = shape_.rows;
        char* tiles = static_cast<char*>(tiles_.bytes(rows * size * bytes()));
        std::vector<int64_t> offset(rows);
        for (int64_t c = 0; c < rows; ++c) offset[c] = c * size;
        at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
            for (int64_t c = begin; c < end; ++c) {
                const void *p = shape_.transposed ? shared_ : row_data_[c],
                           *u = shape_.transposed ? row_data_[c] : shared_;
                GRADFAST_SIMD(outer_products)
                ({element_, positions_->layout().positions(p), windows_->layout().windows(u),
                  shape_.position_channels},
                 first, channels, panel.begin, panel.columns, tiles + offset[c] * bytes(), panel.columns);
            }
        });
        const int64_t start = 0;
        const Vectors vectors{tiles, offset.data(), &start};
        at::parallel_for(0, ceil_div(rows, kRowBlock), 1, [&](int64_t begin, int64_t end) {
            GRADFAST_SIMD(inner_products)
            ({element_, vectors, vectors, rows, rows, 1, size}, begin * kRowBlock,
             std::min(end * kRowBlock, rows),
             /*upper=*/true, /*accumulate=*/true, gram, rows);
        });
    }

    std::vector<Panel> panels_;
    OperandScratch shared_scratch_;
    Buffer tiles_;
    const void* shared_ = nullptr;
};

// <A R_c, R_d> with A = S S' for the shared operand S.
class SharedGram final : public RowGram {
  public:
    SharedGram(const ConvShape& s, const Image& x, const Image& g, Element element)
        : RowGram(s, x, g, element),
          shared_(s.transposed ? position_operand(s, x, element, Use::vectors, 0)
                               : window_operand(s, x, element, Use::vectors)),
          panels_(outer_panels(row_operand().layout(), element)) {
        // As many panels of a run together as keep the products of a block of rows in the cache.
        const int64_t most = kTileElements / 4 / (kRowBlock * s.positions());
        const OperandLayout& layout = row_operand().layout();
        for (std::size_t i = 0; i < panels_.size(); ++i) {
            const bool adjoins = i > 0 && panels_[i].begin == panels_[i - 1].begin + panels_[i - 1].columns;
            if (adjoins && strips_.back().columns + panels_[i].columns <= most) {
                ++strips_.back().last;
                strips_.back().columns += panels_[i].columns;
            } else {
                strips_.push_back({i, i + 1, panels_[i].columns});
            }
        }
        for (const int64_t line : layout.line)
            for (int64_t w = 0; w < layout.width; ++w) position_.push_back(line + w * layout.step);
    }

  private:
    void add_shared(int64_t sample, int64_t group, void* gram) override {
        const OperandLayout& layout = shared_->layout();
        const Vectors vectors = layout.vectors(shared_->load(shared_scratch_, 0, sample, group));
        const int64_t positions = shape_.positions(), rows = shape_.rows;
        const InnerProblem problem{element_,         vectors,   vectors,
                                   positions,        positions, static_cast<int64_t>(layout.run.size()),
                                   layout.run_length};
        void* a = a_.bytes(positions * positions * bytes());
        at::parallel_for(0, ceil_div(positions, kRowBlock), 1, [&](int64_t begin, int64_t end) {
            GRADFAST_SIMD(inner_products)
            (problem, begin * kRowBlock, std::min(end * kRowBlock, positions), /*upper=*/false,
             /*accumulate=*/false, a, positions);
        });
        at::parallel_for(0, ceil_div(rows, kRowBlock), 1, [&](int64_t begin, int64_t end) {
            Buffer products;
            for (int64_t block = begin; block < end; ++block)
                for (const Strip& strip : strips_)
                    add_block(a, strip, block * kRowBlock, std::min((block + 1) * kRowBlock, rows), products,
                              gram);
        });
    }

    // Adjacent panels [first, last).
    struct Strip {
        std::size_t first, last;
        int64_t columns;
    };

    // <A R_c, R_d> for c in [first, last) and d >= first, over the columns of one strip.
    void add_block(const void* a, const Strip& strip, int64_t first, int64_t last, Buffer& buffer,
                   void* gram) const {
        const int64_t positions = shape_.positions(), rows = shape_.rows, begin = panels_[strip.first].begin;
        const int64_t size = positions * strip.columns;
        char* products = static_cast<char*>(buffer.bytes((last - first) * size * bytes()));
        const char* base = static_cast<const char*>(row_data_[first]);
        std::vector<int64_t> product(last - first), product_run(positions), row(rows - first),
            row_run(positions);
        for (int64_t t = 0; t < positions; ++t) {
            product_run[t] = t * strip.columns;
            row_run[t] = begin + position_[t];
        }
        for (int64_t c = first; c < rows; ++c)
            row[c - first] = (static_cast<const char*>(row_data_[c]) - base) / bytes();
        for (int64_t c = first; c < last; ++c) {
            product[c - first] = (c - first) * size;
            // A is symmetric, so A R = A' R.
            const OuterProblem problem{
                element_, {a, positions}, row_operand().layout().windows(row_data_[c]), positions};
            for (std::size_t i = strip.first; i < strip.last; ++i) GRADFAST_SIMD(outer_products)
            (problem, 0, positions, panels_[i].begin, panels_[i].columns,
             products + (product[c - first] + panels_[i].begin - begin) * bytes(), strip.columns);
        }
        GRADFAST_SIMD(inner_products)
        ({element_,
          {products, product.data(), product_run.data()},
          {base, row.data(), row_run.data()},
          last - first,
          rows - first,
          positions,
          strip.columns},
         0, last - first, /*upper=*/false, /*accumulate=*/true,
         static_cast<char*>(gram) + first * (rows + 1) * bytes(), rows);
    }

    std::unique_ptr<Operand> shared_;
    std::vector<Panel> panels_;
    std::vector<Strip> strips_;
    std::vector<int64_t> position_;
    OperandScratch shared_scratch_;
    Buffer a_;
};

template <typename T>
void mirror(T* gram, int64_t rows) {
    for (int64_t c = 0; c < rows; ++c)
        for (int64_t d = 0; d < c; ++d) gram[c * rows + d] = gram[d * rows + c];
}

}  // namespace

void weight_gram(const ConvShape& s, const Image& x, const Image& g, void* out) {
    const Element element = x.storage == Storage::f64 ? Element::f64 : Element::f32;
    const int64_t bytes = s.rows * s.rows * bytes_of(element);
    each_sample(s.samples, [&](int64_t begin, int64_t end) {
        std::unique_ptr<RowGram> rows;
        if (gram_across_rows_form(s) == Form::direct)
            rows = std::make_unique<DirectGram>(s, x, g, element);
        else
            rows = std::make_unique<SharedGram>(s, x, g, element);
        for (int64_t b = begin; b < end; ++b) {
            char* gram = static_cast<char*>(out) + b * bytes;
            for (int64_t group = 0; group < s.groups; ++group) rows->add(b, group, gram);
            if (element == Element::f64)
                mirror(reinterpret_cast<double*>(gram), s.rows);
            else
                mirror(reinterpret_cast<float*>(gram), s.rows);
        }
    });
}

}  // namespace gradfast::cpu
