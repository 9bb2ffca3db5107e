#include "operands.h"

#include <algorithm>

#include "simd/copy.h"

namespace gradfast::cpu {
namespace {

using Extent = ConvShape::Extent;

constexpr int64_t kSlack = 64;  // bytes past an operand that kernels may read: whole vectors

int64_t vector_elements(Element element) {
    return kSlack / bytes_of(element);
}

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// [positions, channels] of a tensor's pixels.
class PixelOperand final : public Operand {
  public:
    // Every scale[i]-th pixel along spatial dimension i, extent[i] of them.
    PixelOperand(Image image, const Extent& extent, const Extent& scale, int64_t frames, int64_t channels,
                 Element element, Use use, int64_t pair_width)
        : image_(image), extent_(extent), frames_(frames), channels_(channels), element_(element) {
        for (int i = 0; i < 3; ++i) image_.spatial[i] *= scale[i];
        positions_ = frames * ConvShape::product(extent);
        paired_ = pair_width > 0;
        // Pixels that an expanded tensor repeats have no distance, by which the kernels count them.
        const bool apart = image_.spatial[2] != 0 || positions_ <= 1;
        in_place_ = image.storage == storage_of(element) && image.channel == 1 && apart && uniform() &&
                    !(use == Use::windows && channels % vector_elements(element) != 0);
        row_stride_ = in_place_ ? image_.spatial[2] : channels;

        layout_.stride = layout_.step = paired_ ? channels : row_stride_;
        layout_.run_length = channels;
        layout_.line = {0};
        layout_.line_width = positions_;
        layout_.width = paired_ ? ceil_div(positions_, 2) : positions_;
        pair_width_ = pair_width;
        if (use == Use::vectors)
            for (int64_t t = 0; t < positions_; ++t) layout_.vector.push_back(t * row_stride_);
    }

    const void* load(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const override {
        const char* source = image_.at(row, sample * frames_, group * channels_);
        const void* rows = in_place_ ? source : copy(scratch.copy, source);
        return paired_ ? pair(scratch.pairs, static_cast<const uint16_t*>(rows)) : rows;
    }

  private:
    // Whether neighbouring positions are equally far apart, across lines and frames too.
    bool uniform() const {
        int64_t expected = image_.spatial[2] * extent_[2];
        for (int i = 1; i >= 0; --i) {
            if (extent_[i] != 1 && image_.spatial[i] != expected) return false;
            expected *= extent_[i];
        }
        return frames_ == 1 || image_.image == expected;
    }

    const void* copy(Buffer& buffer, const char* source) const {
        const int64_t bytes = bytes_of(element_);
        char* out = static_cast<char*>(buffer.bytes(positions_ * channels_ * bytes + kSlack));
        const auto kernel = GRADFAST_SIMD(copy_matrix);
        const auto part = [&](int64_t offset, int64_t count) {
            kernel({source + offset * bytes_of(image_.storage), image_.storage, image_.spatial[2],
                    image_.channel},
                   count, channels_, element_, out, channels_);
            out += count * channels_ * bytes;
        };
        if (uniform()) {
            part(0, positions_);
            return buffer.bytes(0);
        }
        for (int64_t f = 0; f < frames_; ++f)
            for (int64_t d = 0; d < extent_[0]; ++d)
                for (int64_t h = 0; h < extent_[1]; ++h)
                    part(f * image_.image + d * image_.spatial[0] + h * image_.spatial[1], extent_[2]);
        return buffer.bytes(0);
    }

    const void* pair(Buffer& buffer, const uint16_t* rows) const {
        const int64_t lines = positions_ / pair_width_, pairs = ceil_div(pair_width_, 2);
        auto* out = static_cast<uint16_t*>(buffer.bytes(lines * pairs * channels_ * 4 + kSlack));
        const auto kernel = GRADFAST_SIMD(pair_bf16);
        for (int64_t line = 0; line < lines; ++line)
            for (int64_t w = 0; w < pair_width_; w += 2, out += 2 * channels_) {
                const uint16_t* even = rows + (line * pair_width_ + w) * row_stride_;
                kernel(even, w + 1 < pair_width_ ? even + row_stride_ : nullptr, channels_, out);
            }
        return buffer.bytes(0);
    }

    Image image_;
    Extent extent_;
    int64_t frames_, channels_, positions_, row_stride_, pair_width_;
    Element element_;
    bool in_place_, paired_;
};

// The windows of an image, as runs of contiguous elements of a padded copy; where runs would be too short for
// vectors, gathered into one run.
class WindowOperand final : public Operand {
  public:
    WindowOperand(const Image& image, const ConvShape& s, Element element, Use use)
        : image_(image),
          frames_(s.frames),
          channels_(s.window_channels),
          element_(element),
          window_(s.window),
          before_(s.padding) {
        int64_t pixels = 1;
        for (int i = 0; i < 3; ++i) {
            const int64_t reach = (s.position[i] - 1) * s.stride[i] + s.dilation[i] * (s.kernel[i] - 1) + 1;
            padded_[i] = std::max(before_[i] + window_[i], reach);
            pixels *= padded_[i];
        }
        elements_ = frames_ * pixels * channels_;
        line_step_ = padded_[2] * channels_;

        // A run is a tap's channels, or those of neighbouring taps too.
        const int64_t merged = s.dilation[2] == 1 && use != Use::taps ? s.kernel[2] : 1;
        layout_.run.clear();
        for (int64_t kd = 0; kd < s.kernel[0]; ++kd)
            for (int64_t kh = 0; kh < s.kernel[1]; ++kh)
                for (int64_t kw = 0; kw < s.kernel[2]; kw += merged)
                    layout_.run.push_back(
                        ((kd * s.dilation[0] * padded_[1] + kh * s.dilation[1]) * padded_[2] +
                         kw * s.dilation[2]) *
                        channels_);
        layout_.run_length = merged * channels_;

        for (int64_t f = 0; f < frames_; ++f)
            for (int64_t d = 0; d < s.position[0]; ++d)
                for (int64_t h = 0; h < s.position[1]; ++h)
                    layout_.line.push_back(f * pixels * channels_ +
                                           (d * s.stride[0] * padded_[1] + h * s.stride[1]) * line_step_);
        layout_.line_width = layout_.width = s.position[2];
        layout_.step = s.stride[2] * channels_;
        if (use == Use::vectors || short_runs(s)) list_vectors();
        paired_ = use == Use::windows && element == Element::bf16;
        unfolded_ = use != Use::taps && short_runs(s);
        if (unfolded_) unfold_layout(s.window_width());
        if (paired_) {
            layout_.width = ceil_div(layout_.line_width, 2);
            pair_distance_ = layout_.step;
            layout_.step *= 2;
        }
    }

    const void* load(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const override {
        const void* data = pad(scratch.copy, image_.at(row, sample * frames_, group * channels_));
        if (unfolded_) data = unfold(scratch.unfolded, static_cast<const char*>(data));
        return paired_ ? pair(scratch.pairs, static_cast<const uint16_t*>(data)) : data;
    }

  private:
    bool short_runs(const ConvShape& s) const {
        const int64_t lanes = vector_elements(element_);
        const auto runs = static_cast<int64_t>(layout_.run.size());
        return 4 * runs * ceil_div(layout_.run_length, lanes) > 5 * ceil_div(s.window_width(), lanes);
    }

    void list_vectors() {
        for (const int64_t line : layout_.line)
            for (int64_t w = 0; w < layout_.width; ++w) layout_.vector.push_back(line + w * layout_.step);
    }

    void unfold_layout(int64_t width) {
        gather_vector_ = std::move(layout_.vector);
        gather_run_ = std::move(layout_.run);
        gather_length_ = layout_.run_length;
        const auto positions = static_cast<int64_t>(gather_vector_.size());
        layout_ = OperandLayout{};
        for (int64_t t = 0; t < positions; ++t) layout_.vector.push_back(t * width);
        layout_.line = {0};
        layout_.run_length = layout_.step = width;
        layout_.line_width = layout_.width = positions;
        elements_unfolded_ = positions * width;
    }

    const void* pad(Buffer& buffer, const char* source) const {
        const int64_t bytes = bytes_of(element_);
        // The border is never written, so it stays zero.
        char* out = static_cast<char*>(buffer.bytes(elements_ * bytes + kSlack, /*zero=*/true));
        const auto kernel = GRADFAST_SIMD(copy_matrix);
        for (int64_t f = 0; f < frames_; ++f)
            for (int64_t d = 0; d < window_[0]; ++d)
                for (int64_t h = 0; h < window_[1]; ++h) {
                    const int64_t from = f * image_.image + d * image_.spatial[0] + h * image_.spatial[1];
                    const int64_t to =
                        ((f * padded_[0] + d + before_[0]) * padded_[1] + h + before_[1]) * line_step_ +
                        before_[2] * channels_;
                    kernel({source + from * bytes_of(image_.storage), image_.storage, image_.spatial[2],
                            image_.channel},
                           window_[2], channels_, element_, out + to * bytes, channels_);
                }
        return out;
    }

    const void* unfold(Buffer& buffer, const char* padded) const {
        const int64_t bytes = bytes_of(element_), run_bytes = gather_length_ * bytes;
        char* const begin = static_cast<char*>(buffer.bytes(elements_unfolded_ * bytes + kSlack));
        char* out = begin;
        for (const int64_t vector : gather_vector_)
            for (const int64_t run : gather_run_) {
                std::memcpy(out, padded + (vector + run) * bytes, run_bytes);
                out += run_bytes;
            }
        return begin;
    }

    // Each element beside the one of the next position. The last position of a line may meet what follows it:
    // P is zero there.
    const void* pair(Buffer& buffer, const uint16_t* data) const {
        const int64_t count = unfolded_ ? elements_unfolded_ : elements_;
        const int64_t whole = std::max<int64_t>(count - pair_distance_, 0);
        auto* out = static_cast<uint16_t*>(buffer.bytes(count * 4 + kSlack));
        GRADFAST_SIMD(pair_bf16)(data, data + pair_distance_, whole, out);
        GRADFAST_SIMD(pair_bf16)(data + whole, nullptr, count - whole, out + 2 * whole);
        return out;
    }

    Image image_;
    int64_t frames_, channels_;
    Element element_;
    Extent window_, before_, padded_;
    int64_t elements_, line_step_, elements_unfolded_ = 0, pair_distance_ = 0;
    bool unfolded_ = false, paired_ = false;
    std::vector<int64_t> gather_vector_, gather_run_;  // where unfolding finds each window in the padded copy
    int64_t gather_length_ = 0;
};

}  // namespace

Element element_of(Storage storage) {
    if (storage == Storage::f64) return Element::f64;
    return storage == Storage::bf16 && isa() == Isa::avx512bf16 ? Element::bf16 : Element::f32;
}

Storage storage_of(at::ScalarType type) {
    switch (type) {
        case at::kDouble:
            return Storage::f64;
        case at::kBFloat16:
            return Storage::bf16;
        case at::kHalf:
            return Storage::f16;
        default:
            return Storage::f32;
    }
}

Storage storage_of(Element element) {
    return element == Element::f64 ? Storage::f64 : element == Element::f32 ? Storage::f32 : Storage::bf16;
}

int64_t bytes_of(Storage storage) {
    return storage == Storage::f64 ? 8 : storage == Storage::f32 ? 4 : 2;
}

int64_t bytes_of(Element element) {
    return bytes_of(storage_of(element));
}

namespace {

Image image_of(const at::Tensor& t, int64_t first_dim) {
    Image image{static_cast<const char*>(t.const_data_ptr()),
                storage_of(t.scalar_type()),
                first_dim == 0 ? 0 : t.stride(0),
                t.stride(first_dim),
                t.stride(first_dim + 1),
                {0, 0, 0}};
    const int64_t dims = t.dim() - first_dim - 2;
    for (int64_t i = 0; i < dims; ++i) image.spatial[3 - dims + i] = t.stride(first_dim + 2 + i);
    return image;
}

}  // namespace

Image Image::of_input(const at::Tensor& x) {
    return image_of(x, 0);
}

Image Image::of_cotangent(const at::Tensor& g) {
    return image_of(g, 1);
}

const char* Image::at(int64_t r, int64_t i, int64_t c) const {
    return data + (r * row + i * image + c * channel) * bytes_of(storage);
}

std::unique_ptr<Operand> position_operand(const ConvShape& s, const Image& image, Element element, Use use,
                                          int64_t pair_width) {
    return std::make_unique<PixelOperand>(image, s.position, Extent{1, 1, 1}, s.frames, s.position_channels,
                                          element, use, pair_width);
}

std::unique_ptr<Operand> window_operand(const ConvShape& s, const Image& image, Element element, Use use) {
    if (s.taps() > 1 || !s.unpadded()) return std::make_unique<WindowOperand>(image, s, element, use);
    const bool paired = element == Element::bf16 && use == Use::windows;
    return std::make_unique<PixelOperand>(image, s.position, s.stride, s.frames, s.window_channels, element,
                                          use, paired ? s.positions() : 0);
}

std::unique_ptr<Operand> pixel_operand(const ConvShape& s, const Image& image, Element element) {
    return std::make_unique<PixelOperand>(image, s.window, Extent{1, 1, 1}, s.frames, s.window_channels,
                                          element, Use::vectors, 0);
}

}  // namespace gradfast::cpu
