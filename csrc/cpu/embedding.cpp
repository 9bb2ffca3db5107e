// Norms, dots and Grams of an embedding table's gradient: for each distinct token, the sum of its g.
#include "simd/embedding.h"

#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "../checks.h"
#include "operands.h"
#include "parallel.h"
#include "simd/inner.h"
#include "simd/reduce.h"

namespace gradfast::cpu {
namespace {

// The positions of one sample that count, sorted by token.
class SortedTokens {
  public:
    SortedTokens(const int64_t* tokens, int64_t positions, int64_t padding_idx) {
        order_.reserve(positions);
        for (int64_t t = 0; t < positions; ++t)
            if (padding_idx < 0 || tokens[t] != padding_idx) order_.push_back(t);
        std::sort(order_.begin(), order_.end(), [tokens](int64_t a, int64_t b) {
            return tokens[a] != tokens[b] ? tokens[a] < tokens[b] : a < b;
        });
        for (std::size_t i = 0; i < order_.size(); ++i)
            if (i == 0 || tokens[order_[i]] != tokens[order_[i - 1]])
                begin_.push_back(static_cast<int64_t>(i));
        begin_.push_back(static_cast<int64_t>(order_.size()));
    }

    TokenRuns runs() const { return {order_.data(), begin_.data(), static_cast<int64_t>(begin_.size()) - 1}; }

  private:
    std::vector<int64_t> order_, begin_;
};

// g with its last dimension adjacent, as memory.
struct Cotangent {
    explicit Cotangent(const at::Tensor& g)
        : tensor(g.stride(3) == 1 || g.size(3) == 1 ? g : g.contiguous()),
          storage(storage_of(g.scalar_type())) {}

    const char* at(int64_t c, int64_t b, int64_t t) const {
        return static_cast<const char*>(tensor.const_data_ptr()) +
               (c * tensor.stride(0) + b * tensor.stride(1) + t * tensor.stride(2)) * tensor.element_size();
    }

    at::Tensor tensor;
    Storage storage;
};

template <typename F>
void fill(at::Tensor& out, const F& value) {
    // out [B, C]; the rows of a sample follow each other, so that what they share stays in the cache.
    const int64_t rows = out.size(1);
    at::parallel_for(0, out.numel(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const double v = value(i / rows, i % rows);
            if (out.scalar_type() == at::kDouble)
                out.mutable_data_ptr<double>()[i] = v;
            else
                out.mutable_data_ptr<float>()[i] = static_cast<float>(v);
        }
    });
}

std::vector<SortedTokens> sort_tokens(const at::Tensor& indices, int64_t padding_idx) {
    const auto dense = indices.contiguous();
    std::vector<SortedTokens> sorted;
    for (int64_t b = 0; b < dense.size(0); ++b)
        sorted.emplace_back(dense.const_data_ptr<int64_t>() + b * dense.size(1), dense.size(1), padding_idx);
    return sorted;
}

at::TensorOptions result_options(const at::Tensor& g) {
    return g.options().dtype(accumulate_dtype(g.scalar_type()));
}

at::Tensor embedding_sqnorm(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_sqnorm", indices, g);
    auto out = at::zeros({g.size(1), g.size(0)}, result_options(g));
    if (g.numel() == 0) return out;
    const auto sorted = sort_tokens(indices, padding_idx);
    const Cotangent cotangent(g);
    const auto kernel = GRADFAST_SIMD(token_square_sum);
    fill(out, [&](int64_t b, int64_t c) {
        return kernel(cotangent.storage, cotangent.at(c, b, 0), cotangent.tensor.stride(2), g.size(3),
                      sorted[b].runs());
    });
    return out;
}

at::Tensor embedding_dot(const at::Tensor& indices, const at::Tensor& g, const at::Tensor& ref,
                         int64_t padding_idx) {
    check_embedding("embedding_dot", indices, g);
    check_same("embedding_dot", "g", g, "ref", ref);
    TORCH_CHECK_VALUE(ref.dim() == 2 && ref.size(1) == g.size(3), "embedding_dot: ref has shape ",
                      ref.sizes(), "; wanted [V, ", g.size(3), "]");
    auto out = at::zeros({g.size(1), g.size(0)}, result_options(g));
    const auto tokens = indices.contiguous();
    const int64_t* token = tokens.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < tokens.numel(); ++i)
        TORCH_CHECK_INDEX(token[i] >= 0 && token[i] < ref.size(0), "embedding_dot: indices has ", token[i],
                          "; wanted 0 to ", ref.size(0) - 1, ", the rows of ref");
    if (g.numel() == 0) return out;
    const Cotangent cotangent(g);
    const auto table = ref.to(out.scalar_type()).contiguous();
    const int64_t positions = g.size(2), width = g.size(3);
    const auto kernel = GRADFAST_SIMD(dot);
    fill(out, [&](int64_t b, int64_t c) {
        double total = 0;
        for (int64_t t = 0; t < positions; ++t) {
            const int64_t k = token[b * positions + t];
            if (padding_idx >= 0 && k == padding_idx) continue;
            const char* row =
                static_cast<const char*>(table.const_data_ptr()) + k * width * table.element_size();
            total += kernel(cotangent.storage, cotangent.at(c, b, t), row, width);
        }
        return total;
    });
    return out;
}

at::Tensor embedding_gram(const at::Tensor& indices, const at::Tensor& g, int64_t padding_idx) {
    check_embedding("embedding_gram", indices, g);
    const int64_t rows = g.size(0), width = g.size(3);
    auto out = at::zeros({g.size(1), rows, rows}, result_options(g));
    if (g.numel() == 0) return out;
    const Cotangent cotangent(g);
    const auto sorted = sort_tokens(indices, padding_idx);
    const auto add_up = GRADFAST_SIMD(token_sum);
    const auto multiply = GRADFAST_SIMD(inner_products);
    const Element element = out.scalar_type() == at::kDouble ? Element::f64 : Element::f32;
    std::vector<int64_t> offset(rows);
    for (int64_t c = 0; c < rows; ++c) offset[c] = c * width;
    const int64_t start = 0;
    at::parallel_for(0, g.size(1), 1, [&](int64_t first, int64_t last) {
        Buffer buffer;  // one token's gradients for all rows
        char* sums = static_cast<char*>(buffer.bytes(rows * width * out.element_size()));
        const Vectors vectors{sums, offset.data(), &start};
        for (int64_t b = first; b < last; ++b) {
            const TokenRuns runs = sorted[b].runs();
            char* gram = static_cast<char*>(out.mutable_data_ptr()) + b * rows * rows * out.element_size();
            for (int64_t k = 0; k < runs.tokens; ++k) {
                for (int64_t c = 0; c < rows; ++c)
                    add_up(cotangent.storage, cotangent.at(c, b, 0), cotangent.tensor.stride(2), width, runs,
                           k, sums + offset[c] * out.element_size());
                multiply({element, vectors, vectors, rows, rows, 1, width}, 0, rows, /*upper=*/false,
                         /*accumulate=*/true, gram, rows);
            }
        }
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gradfast, CPU, m) {
    m.impl("embedding_sqnorm", embedding_sqnorm);
    m.impl("embedding_dot", embedding_dot);
    m.impl("embedding_gram", embedding_gram);
}

}  // namespace gradfast::cpu
