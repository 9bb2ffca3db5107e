#include "channel.h"

#include "vec.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

constexpr int64_t kBlock = 512;  // positions added to one float; blocks are added in double

template <typename S>
class ChannelSums {
    using A = Accumulator<S>;
    static constexpr int64_t width = kWidth<A>;
    static constexpr int kVectors = 4;  // of channels at once: independent sums, and whole cache lines

  public:
    ChannelSums(const ChannelView& g, const ChannelView& xhat)
        : g_(static_cast<const S*>(g.data)),
          x_(static_cast<const S*>(xhat.data)),
          g_channel_(g.channel_stride),
          g_position_(g.position_stride),
          x_channel_(xhat.channel_stride),
          x_position_(xhat.position_stride) {}

    void run(int64_t channels, int64_t positions, A* out) const {
        if (g_channel_ == 1 && (x_ == nullptr || x_channel_ == 1)) {
            int64_t o = 0;
            for (; o + kVectors * width <= channels; o += kVectors * width)
                adjacent_channels<kVectors>(o, positions, out + o);
            for (; o + width <= channels; o += width) adjacent_channels<1>(o, positions, out + o);
            if (o < channels) last_channels(o, channels - o, positions, out + o);
        } else {
            const bool adjacent = g_position_ == 1 && (x_ == nullptr || x_position_ == 1);
            for (int64_t o = 0; o < channels; ++o)
                out[o] = adjacent ? adjacent_positions(o, positions) : any_positions(o, positions);
        }
    }

  private:
    template <int Vectors>
    void adjacent_channels(int64_t o, int64_t positions, A* out) const {
        double totals[Vectors * width] = {};
        for (int64_t begin = 0; begin < positions; begin += kBlock) {
            Vec<A> sums[Vectors] = {};
            for (int64_t t = begin; t < smaller(begin + kBlock, positions); ++t)
#pragma GCC unroll 4
                for (int v = 0; v < Vectors; ++v) {
                    const Vec<A> g = load(g_ + t * g_position_ + o + v * width);
                    sums[v] += x_ == nullptr ? g : g * load(x_ + t * x_position_ + o + v * width);
                }
            for (int v = 0; v < Vectors; ++v)
                for (int64_t i = 0; i < width; ++i) totals[v * width + i] += sums[v][i];
        }
        for (int64_t i = 0; i < Vectors * width; ++i) out[i] = static_cast<A>(totals[i]);
    }

    void last_channels(int64_t o, int64_t count, int64_t positions, A* out) const {
        double totals[width] = {};
        for (int64_t begin = 0; begin < positions; begin += kBlock) {
            Vec<A> sums{};
            for (int64_t t = begin; t < smaller(begin + kBlock, positions); ++t) {
                const Vec<A> g = load(g_ + t * g_position_ + o, count);
                sums += x_ == nullptr ? g : g * load(x_ + t * x_position_ + o, count);
            }
            for (int64_t i = 0; i < count; ++i) totals[i] += sums[i];
        }
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<A>(totals[i]);
    }

    A adjacent_positions(int64_t o, int64_t positions) const {
        const S* g = g_ + o * g_channel_;
        const S* x = x_ == nullptr ? nullptr : x_ + o * x_channel_;
        double total = 0;
        for (int64_t begin = 0; begin < positions; begin += kBlock) {
            const int64_t end = smaller(begin + kBlock, positions);
            Vec<A> sums{};
            int64_t t = begin;
            for (; t + width <= end; t += width)
                sums += x == nullptr ? load(g + t) : load(g + t) * load(x + t);
            if (t < end)
                sums += x == nullptr ? load(g + t, end - t) : load(g + t, end - t) * load(x + t, end - t);
            total += sum(sums);
        }
        return static_cast<A>(total);
    }

    A any_positions(int64_t o, int64_t positions) const {
        double total = 0;
        for (int64_t t = 0; t < positions; ++t) {
            const A g = to_float(g_[o * g_channel_ + t * g_position_]);
            total += x_ == nullptr ? g : g * to_float(x_[o * x_channel_ + t * x_position_]);
        }
        return static_cast<A>(total);
    }

    const S *g_, *x_;
    int64_t g_channel_, g_position_, x_channel_, x_position_;
};

}  // namespace

void channel_sums(Storage storage, const ChannelView& g, const ChannelView& xhat, int64_t channels,
                  int64_t positions, void* out) {
    switch (storage) {
        case Storage::f64:
            return ChannelSums<double>(g, xhat).run(channels, positions, static_cast<double*>(out));
        case Storage::bf16:
            return ChannelSums<Bf16>(g, xhat).run(channels, positions, static_cast<float*>(out));
        case Storage::f16:
            return ChannelSums<Fp16>(g, xhat).run(channels, positions, static_cast<float*>(out));
        default:
            return ChannelSums<float>(g, xhat).run(channels, positions, static_cast<float*>(out));
    }
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
