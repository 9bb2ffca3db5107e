#include "channel_sums.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "operands.h"
#include "parallel.h"
#include "simd/channel.h"
#include "simd/reduce.h"

namespace gradfast::cpu {
namespace {

// The spatial dimensions, from `first` on, as one.
struct Spatial {
    int64_t positions = 1, stride = 1;
    bool collapsible = true;
};

Spatial collapse(const at::Tensor& t, int64_t first) {
    Spatial s;
    bool found = false;
    for (int64_t i = t.dim() - 1; i >= first; --i) {
        if (t.size(i) != 1) {
            if (!found) s.stride = t.stride(i);
            if (found && t.stride(i) != s.stride * s.positions) s.collapsible = false;
            found = true;
        }
        s.positions *= t.size(i);
    }
    return s;
}

class ChannelProblem {
  public:
    ChannelProblem(const at::Tensor& g, const std::optional<at::Tensor>& xhat)
        : g_(collapse(g, 3).collapsible ? g : g.contiguous()),
          storage_(storage_of(g.scalar_type())),
          positions_(collapse(g_, 3).positions),
          g_position_(collapse(g_, 3).stride) {
        if (!xhat) return;
        // Adjacent channels or positions in g are to be adjacent in xhat too; a copy of xhat is small beside
        // g's rows.
        const bool channels_adjacent = g_.stride(2) == 1;
        xhat_ = *xhat;
        const Spatial spatial = collapse(xhat_, 2);
        if (!spatial.collapsible || (channels_adjacent ? xhat_.stride(1) : spatial.stride) != 1)
            xhat_ = channels_adjacent ? xhat_.movedim(1, -1).contiguous().movedim(-1, 1) : xhat_.contiguous();
        x_position_ = collapse(xhat_, 2).stride;
    }

    int64_t rows() const { return g_.size(0); }
    int64_t samples() const { return g_.size(1); }
    int64_t channels() const { return g_.size(2); }
    at::ScalarType accumulator() const { return accumulate_dtype(g_.scalar_type()); }
    at::TensorOptions options() const { return g_.options().dtype(accumulator()); }

    // f(sample, row, sums) for all samples and rows; sums [O] in the accumulator's type is gone afterwards.
    template <typename F>
    void each(const F& f) const {
        const auto kernel = GRADFAST_SIMD(channel_sums);
        const int64_t bytes = g_.element_size();
        at::parallel_for(0, samples() * rows(), 1, [&](int64_t begin, int64_t end) {
            Buffer buffer;
            void* sums = buffer.bytes(channels() * sizeof(double));
            for (int64_t i = begin; i < end; ++i) {
                const int64_t b = i / rows(), c = i % rows();  // the rows of a sample read the same xhat
                const char* g = static_cast<const char*>(g_.const_data_ptr()) +
                                (c * g_.stride(0) + b * g_.stride(1)) * bytes;
                ChannelView x{nullptr, 0, 0};
                if (xhat_.defined())
                    x = {static_cast<const char*>(xhat_.const_data_ptr()) + b * xhat_.stride(0) * bytes,
                         xhat_.stride(1), x_position_};
                kernel(storage_, {g, g_.stride(2), g_position_}, x, channels(), positions_, sums);
                f(b, c, sums);
            }
        });
    }

  private:
    at::Tensor g_, xhat_;
    Storage storage_;
    int64_t positions_, g_position_, x_position_ = 0;
};

// [B, C] of double or float, each value from the sums of its sample and row.
template <typename F>
at::Tensor reduce(const ChannelProblem& problem, const F& value) {
    auto out = at::zeros({problem.samples(), problem.rows()}, problem.options());
    if (out.numel() == 0) return out;
    const bool is_double = problem.accumulator() == at::kDouble;
    void* data = out.mutable_data_ptr();
    problem.each([&](int64_t b, int64_t c, const void* sums) {
        const double v = value(is_double ? Storage::f64 : Storage::f32, sums);
        if (is_double)
            static_cast<double*>(data)[b * problem.rows() + c] = v;
        else
            static_cast<float*>(data)[b * problem.rows() + c] = static_cast<float>(v);
    });
    return out;
}

}  // namespace

at::Tensor channel_sqnorm(const at::Tensor& g, const std::optional<at::Tensor>& xhat) {
    const ChannelProblem problem(g, xhat);
    const auto kernel = GRADFAST_SIMD(square_sum);
    return reduce(problem, [&](Storage s, const void* sums) { return kernel(s, sums, problem.channels()); });
}

at::Tensor channel_dot(const at::Tensor& g, const std::optional<at::Tensor>& xhat, const at::Tensor& ref) {
    const ChannelProblem problem(g, xhat);
    const auto kernel = GRADFAST_SIMD(dot);
    const auto r = ref.to(problem.accumulator()).contiguous();
    return reduce(problem, [&](Storage s, const void* sums) {
        return kernel(s, sums, r.const_data_ptr(), problem.channels());
    });
}

at::Tensor channel_gram(const at::Tensor& g, const std::optional<at::Tensor>& xhat) {
    const ChannelProblem problem(g, xhat);
    auto sums = at::empty({problem.samples(), problem.rows(), problem.channels()}, problem.options());
    const int64_t bytes = problem.channels() * sums.element_size();
    char* data = static_cast<char*>(sums.mutable_data_ptr());
    if (sums.numel() > 0)
        problem.each([&](int64_t b, int64_t c, const void* s) {
            std::memcpy(data + (b * problem.rows() + c) * bytes, s, bytes);
        });
    return at::bmm(sums, sums.transpose(1, 2));
}

}  // namespace gradfast::cpu
