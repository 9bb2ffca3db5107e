#include "../winograd.h"

#include "winograd_layout.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// The taps of `weight` for output channel o and the input channels [channel, end), flipped and scaled, to u.
template <typename T>
void transform_weight(const WinogradProblem& p, int64_t o, int64_t channel, int64_t end, float* u,
                      int64_t u_stride) {
    const T* base = static_cast<const T*>(p.weight) + o * p.w_o + channel * p.w_i;
    const int64_t valid = end - channel;
    V taps[3][3];
    for (int y = 0; y < 3; ++y) {
        for (int x = 0; x < 3; ++x) {
            const T* tap = base + (2 - y) * p.w_y + (2 - x) * p.w_x;
            if (p.w_i == 1) {
                taps[y][x] = load_lanes(tap, valid);
            } else {
                T lanes[kLanes] = {};
                for (int64_t i = 0; i < smaller(valid, kLanes); ++i) lanes[i] = tap[i * p.w_i];
                taps[y][x] = load(lanes);
            }
            if (p.scale) taps[y][x] *= p.scale[o];
        }
    }
    transform_filter_tile(taps, FloatSink{u, u_stride});
}

// x of one sample to u_x.
template <typename T>
void transform_x(const WinogradProblem& p, const WinogradPlan& plan, int64_t sample, float* u_x) {
    using Unit = typename UnitOf<T>::type;
    const Layout layout(p, plan);
    const T* base = static_cast<const T*>(p.x) + sample * p.x_sample;
    const int64_t tiles = plan.tiles_y * plan.tiles_x;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t top = tile / plan.tiles_x * kOut, left = tile % plan.tiles_x * kOut;
        const int64_t block = tile / plan.tiles_per_block * plan.tiles_per_block;
        const int64_t depth = ceil_div(smaller(plan.tiles_per_block, tiles - block), UnitOf<T>::elements);
        Unit* u = reinterpret_cast<Unit*>(u_x) + block / UnitOf<T>::elements * layout.in_padded;
        for (int64_t channel = 0; channel < p.in_channels; channel += kLanes) {
            V values[kOut][kOut];
            for (int y = 0; y < kOut; ++y) {
                for (int x = 0; x < kOut; ++x) {
                    const bool inside = top + y < p.height && left + x < p.width;
                    const T* pixel = base + (top + y) * p.x_y + (left + x) * p.x_x + channel;
                    values[y][x] = inside ? load_lanes(pixel, p.in_channels - channel) : V{};
                }
            }
            const int64_t unit = (tile - block) / UnitOf<T>::elements;
            Unit* out = u + panel_offset(depth, layout.in_padded, unit, channel);
            transform_filter_tile(values, norm_sink(out, layout.x_stride, tile % 2 == 1));
        }
    }
}

template <typename T>
class Group {
  public:
    Group(const WinogradProblem& problem, const WinogradPlan& plan, WinogradBuffers& buffers, int64_t group)
        : p_(problem),
          plan_(plan),
          layout_(problem, plan),
          buffers_(buffers),
          tiles_(plan.tiles_y * plan.tiles_x),
          first_image_(group * plan.images_per_group),
          images_(smaller(plan.images_per_group, problem.rows * problem.batch - first_image_)) {}

    int64_t tiles() const { return images_ * tiles_; }

    // The tiles [begin, end) of the group to v, the first of them at place `slot`.
    void transform_g(int64_t begin, int64_t end, int64_t slot) const {
        for (int64_t tile = begin; tile < end; ++tile, ++slot) {
            if (p_.mask)
                transform_tile<true>(tile, slot);
            else
                transform_tile<false>(tile, slot);
        }
    }

    // dx of the first `columns` channels from `channel` on, for the `count` tiles in v, of which the first is
    // `begin`.
    void input_gradient(int64_t channel, int64_t columns, int64_t begin, int64_t count) const {
        for (int f = 0; f < kFrequencies; ++f) {
            gemm<false>(count, columns, p_.out_channels, buffers_.v + f * layout_.v_stride,
                        layout_.out_padded, 1, buffers_.u_w + f * layout_.w_stride,
                        buffers_.m + f * layout_.m_stride, layout_.m_columns);
        }
        for (int64_t slot = 0; slot < count; ++slot) write_dx(channel, columns, begin + slot, slot);
    }

    void panel(int64_t panel) const {
        const int64_t channel = panel * kPanel, columns = smaller(kPanel, layout_.in_padded - channel);
        for (int64_t o = 0; o < p_.out_channels; ++o)
            for (int64_t i = 0; i < columns; i += kLanes)
                transform_weight<T>(p_, o, channel + i, p_.in_channels,
                                    buffers_.u_w + panel_offset(p_.out_channels, columns, o, i),
                                    layout_.w_stride);
        input_gradient(channel, columns, 0, tiles());
    }

    // sq of the group's image `image`, all of whose tiles are in v.
    void norm(int64_t image) const {
        double sum = 0;
        for (int64_t o = 0; o < p_.out_channels; o += plan_.sq_channels) {
            const int64_t channels = smaller(plan_.sq_channels, p_.out_channels - o);
            weight_gradient<false>(image, 0, tiles_, image * tiles_, o, channels);
            sum += squared(o, channels);
        }
        store_norm(image, sum);
    }

    void run() const {
        for (int64_t begin = 0; begin < tiles(); begin += plan_.tiles_per_block) {
            const int64_t count = smaller(plan_.tiles_per_block, tiles() - begin);
            transform_g(begin, begin + count, 0);
            if (p_.need_dx) input_gradient(0, layout_.in_padded, begin, count);
            if (!p_.need_sq) continue;
            if (plan_.tiles_per_block >= tiles_)
                for (int64_t image = 0; image < images_; ++image) norm(image);
            else
                add_block(begin, count);
        }
    }

  private:
    using Unit = typename UnitOf<T>::type;
    static constexpr bool kPairs = UnitOf<T>::elements == 2;

    // What the norms read: v itself, or its pairs.
    Unit* v_units() const {
        if constexpr (kPairs)
            return reinterpret_cast<Unit*>(buffers_.v_pairs);
        else
            return buffers_.v;
    }

    // Place in v_units of what is in v from `slot` on, where an image or its block begins.
    int64_t unit_slot(int64_t slot) const {
        return slot / tiles_ * layout_.image_units + slot % tiles_ / UnitOf<T>::elements;
    }

    template <bool Masked>
    void transform_tile(int64_t tile, int64_t slot) const {
        const FloatSink whole{buffers_.v + slot * layout_.out_padded, layout_.v_stride};
        if constexpr (kPairs) {
            const auto pairs = norm_sink(v_units() + unit_slot(slot) * layout_.out_padded,
                                         layout_.v_units_stride, tile % tiles_ % 2 == 1);
            if (!p_.need_dx) return transform_tile<Masked>(tile, pairs);
            if (p_.need_sq) return transform_tile<Masked>(tile, both(whole, pairs));
        }
        transform_tile<Masked>(tile, whole);
    }

    template <bool Masked, typename Sink>
    void transform_tile(int64_t tile, const Sink& sink) const {
        TilePixels<T> pixels;
        locate<Masked>(tile, pixels);
        int64_t channel = 0;
        for (; channel + kLanes <= p_.out_channels; channel += kLanes)
            transform_data_tile<true, Masked>(pixels, channel, kLanes, sink.at(channel));
        if (channel < p_.out_channels)
            transform_data_tile<false, Masked>(pixels, channel, p_.out_channels - channel, sink.at(channel));
    }

    template <bool Masked>
    void locate(int64_t tile, TilePixels<T>& pixels) const {
        const int64_t image = first_image_ + tile / tiles_, row = image % p_.rows, sample = image / p_.rows;
        const T* g = static_cast<const T*>(p_.g) + row * p_.g_row + sample * p_.g_sample;
        const T* mask = static_cast<const T*>(p_.mask) + sample * p_.mask_sample;
        const T* zeros = static_cast<const T*>(p_.zeros);
        pixels.next = kOut * p_.g_x;
        const int64_t top = tile % tiles_ / plan_.tiles_x * kOut - 1;
        const int64_t left = tile % tiles_ % plan_.tiles_x * kOut - 1;
        for (int y = 0; y < kTile; ++y) {
            for (int x = 0; x < kTile; ++x) {
                const int64_t i = top + y, j = left + x;
                const bool inside = i >= 0 && i < p_.height && j >= 0 && j < p_.width;
                pixels.g[y * kTile + x] = inside ? g + i * p_.g_y + j * p_.g_x : zeros;
                if constexpr (Masked)
                    pixels.mask[y * kTile + x] = inside ? mask + i * p_.mask_y + j * p_.mask_x : zeros;
            }
        }
    }

    void write_dx(int64_t first_channel, int64_t columns, int64_t tile, int64_t slot) const {
        const int64_t image = first_image_ + tile / tiles_;
        const int64_t place = image % p_.rows * p_.batch + image / p_.rows;
        const int64_t top = tile % tiles_ / plan_.tiles_x * kOut, left = tile % tiles_ % plan_.tiles_x * kOut;
        const int64_t rows = smaller(kOut, p_.height - top), width = smaller(kOut, p_.width - left);
        T* base = static_cast<T*>(p_.dx) + ((place * p_.height + top) * p_.width + left) * p_.in_channels;
        for (int64_t i = 0; i < columns; i += kLanes) {
            const int64_t channel = first_channel + i, valid = p_.in_channels - channel;
            V values[kOut][kOut];
            transform_output_tile(buffers_.m + slot * layout_.m_columns + i, layout_.m_stride, values);
            if (rows == kOut && width == kOut && valid >= kLanes) {
                for (int y = 0; y < kOut; ++y)
                    for (int x = 0; x < kOut; ++x)
                        store(base + (y * p_.width + x) * p_.in_channels + channel, values[y][x]);
            } else {
                for (int64_t y = 0; y < rows; ++y)
                    for (int64_t x = 0; x < width; ++x)
                        store_lanes(base + (y * p_.width + x) * p_.in_channels + channel, values[y][x],
                                    valid);
            }
        }
    }

    // Products over the `count` tiles of `image` from `tile` on, which are in v from `slot` on, for the
    // output channels [o, o + channels).
    template <bool Accumulate>
    void weight_gradient(int64_t image, int64_t tile, int64_t count, int64_t slot, int64_t o,
                         int64_t channels) const {
        const int64_t sample = (first_image_ + image) / p_.rows;
        if (buffers_.x_sample != sample) transform_x<T>(p_, plan_, sample, buffers_.u_x);
        buffers_.x_sample = sample;
        const Unit* v = v_units() + unit_slot(slot) * layout_.out_padded + o;
        const Unit* u =
            reinterpret_cast<const Unit*>(buffers_.u_x) + tile / UnitOf<T>::elements * layout_.in_padded;
        for (int f = 0; f < kFrequencies; ++f) {
            gemm<Accumulate>(channels, layout_.in_padded, ceil_div(count, UnitOf<T>::elements),
                             v + f * layout_.v_units_stride, 1, layout_.out_padded, u + f * layout_.x_stride,
                             buffers_.dw + f * layout_.dw_stride, layout_.in_padded);
        }
    }

    // An image in several blocks, of which this is one.
    void add_block(int64_t begin, int64_t count) const {
        if (begin == 0)
            weight_gradient<false>(0, begin, count, 0, 0, p_.out_channels);
        else
            weight_gradient<true>(0, begin, count, 0, 0, p_.out_channels);
        if (begin + count == tiles_) store_norm(0, squared(0, p_.out_channels));
    }

    double squared(int64_t o, int64_t channels) const {
        double total = 0;
        for (int64_t row = 0; row < channels; ++row) {
            V squares = {};
            for (int64_t channel = 0; channel < layout_.in_padded; channel += kLanes) {
                V taps[3][3];
                transform_output_tile(buffers_.dw + row * layout_.in_padded + channel, layout_.dw_stride,
                                      taps);
                for (int y = 0; y < 3; ++y)
                    for (int x = 0; x < 3; ++x) squares += taps[y][x] * taps[y][x];
            }
            const double scale = p_.scale ? p_.scale[o + row] : 1;
            total += scale * scale * sum(squares);
        }
        return total;
    }

    void store_norm(int64_t image, double value) const {
        p_.sq[first_image_ + image] = static_cast<float>(value);
    }

    const WinogradProblem& p_;
    const WinogradPlan& plan_;
    const Layout layout_;
    WinogradBuffers& buffers_;
    const int64_t tiles_;  // of an image
    const int64_t first_image_, images_;
};

// Calls f(T{}) with the element type of the problem's tensors.
template <typename F>
void with_type(const WinogradProblem& p, const F& f) {
    if (p.storage == Storage::bf16)
        f(Bf16{});
    else
        f(float{});
}

// Enough tiles to a block that the transformed weight, read once for each, comes cheap; few enough for the
// cache.
int64_t wanted_tiles(const WinogradProblem& p, bool by_panel) {
    return by_panel ? 192 : larger(64, smaller(128, larger(p.in_channels, p.out_channels) / 2));
}

}  // namespace

WinogradPlan winograd_plan(const WinogradProblem& p, int64_t threads) {
    constexpr int64_t large_weight = 512 * 256;  // 18 MB transformed
    WinogradPlan plan{};
    plan.tiles_y = ceil_div(p.height, kOut);
    plan.tiles_x = ceil_div(p.width, kOut);
    const int64_t tiles = plan.tiles_y * plan.tiles_x, images = p.rows * p.batch;
    plan.by_panel =
        p.need_dx && p.in_channels * p.out_channels >= large_weight && tiles <= wanted_tiles(p, true);
    const int64_t wanted = wanted_tiles(p, plan.by_panel);
    plan.images_per_group = larger(1, smaller(wanted / tiles, images));
    // As many groups for each thread, of about the same size.
    const int64_t workers = plan.by_panel ? 1 : threads;
    plan.groups = smaller(images, round_up(ceil_div(images, plan.images_per_group), workers));
    plan.images_per_group = ceil_div(images, plan.groups);
    plan.groups = ceil_div(images, plan.images_per_group);
    plan.tiles_per_block = tiles > wanted ? round_up(ceil_div(tiles, ceil_div(tiles, wanted)), 2)
                                          : plan.images_per_group * tiles;
    const int64_t in_padded = round_up(p.in_channels, kLanes);
    plan.sq_channels = p.out_channels;
    if (plan.tiles_per_block >= tiles)
        plan.sq_channels = smaller(p.out_channels, larger(16, 65536 / in_padded / 16 * 16));
    plan.panels = ceil_div(p.in_channels, kPanel);
    const Layout layout(p, plan);
    const bool pairs = p.need_sq && tiles_per_unit(p) == 2;
    plan.v_floats = p.need_dx || !pairs ? kFrequencies * layout.v_stride : 0;
    plan.v_pairs_floats = pairs ? kFrequencies * layout.v_units_stride : 0;
    plan.weight_floats = p.need_dx ? kFrequencies * layout.w_stride : 0;
    plan.x_floats = p.need_sq ? kFrequencies * layout.x_stride : 0;
    plan.m_floats = p.need_dx ? kFrequencies * layout.m_stride : 0;
    plan.dw_floats = p.need_sq ? kFrequencies * layout.dw_stride : 0;
    return plan;
}

void winograd_transform_weight(const WinogradProblem& p, float* u_w, int64_t begin, int64_t end) {
    const int64_t in_padded = round_up(p.in_channels, kLanes),
                  stride = frequency_stride(p.out_channels * in_padded);
    with_type(p, [&](auto type) {
        for (int64_t o = begin; o < end; ++o)
            for (int64_t i = 0; i < p.in_channels; i += kLanes)
                transform_weight<decltype(type)>(p, o, i, p.in_channels,
                                                 u_w + panel_offset(p.out_channels, in_padded, o, i), stride);
    });
}

void winograd_group(const WinogradProblem& p, const WinogradPlan& plan, WinogradBuffers& buffers,
                    int64_t group) {
    with_type(p, [&](auto type) { Group<decltype(type)>(p, plan, buffers, group).run(); });
}

void winograd_transform_g(const WinogradProblem& p, const WinogradPlan& plan, WinogradBuffers& buffers,
                          int64_t group, int64_t begin, int64_t end) {
    const int64_t tiles = plan.tiles_y * plan.tiles_x;
    with_type(p, [&](auto type) {
        Group<decltype(type)>(p, plan, buffers, group).transform_g(begin * tiles, end * tiles, begin * tiles);
    });
}

void winograd_panels(const WinogradProblem& p, const WinogradPlan& plan, WinogradBuffers& buffers,
                     int64_t group, int64_t begin, int64_t end) {
    with_type(p, [&](auto type) {
        const Group<decltype(type)> work(p, plan, buffers, group);
        for (int64_t panel = begin; panel < end; ++panel) work.panel(panel);
    });
}

void winograd_norms(const WinogradProblem& p, const WinogradPlan& plan, WinogradBuffers& buffers,
                    int64_t group, int64_t begin, int64_t end) {
    with_type(p, [&](auto type) {
        const Group<decltype(type)> work(p, plan, buffers, group);
        for (int64_t image = begin; image < end; ++image) work.norm(image);
    });
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
