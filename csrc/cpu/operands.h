// From tensors to the operands of the kernels: read in place where the memory format allows it, else copied,
// converted, padded or paired, for one sample, row and group at a time.
#pragma once

#include <memory>
#include <vector>

#include "../conv_shape.h"
#include "buffer.h"
#include "operand.h"

namespace gradfast::cpu {

// What the kernels compute in, for operands of this storage, on this processor.
Element element_of(Storage storage);
Storage storage_of(Element element);
Storage storage_of(at::ScalarType type);
int64_t bytes_of(Storage storage);
int64_t bytes_of(Element element);

// A tensor [row, image, channel, *spatial] as plain memory; strides in elements.
struct Image {
    const char* data;
    Storage storage;
    int64_t row, image, channel;
    ConvShape::Extent spatial;

    static Image of_input(const at::Tensor& x);      // [B * F, channels, *spatial]: one row
    static Image of_cotangent(const at::Tensor& g);  // [C, B * F, channels, *spatial]

    const char* at(int64_t r, int64_t i, int64_t c) const;
};

// Scratch of one operand in one thread.
struct OperandScratch {
    Buffer copy, unfolded, pairs;
};

// How a kernel reads an operand.
enum class Use {
    vectors,    // the inner kernels, along the channels
    positions,  // P of the outer kernels
    windows,    // U of the outer kernels; in pairs for bf16
    taps,       // U of the depthwise kernels, a run for every tap
};

// Where the data of one sample, row and group lie; all offsets in elements (in pairs, where the operand is
// paired).
struct OperandLayout {
    std::vector<int64_t> vector;  // of each position
    std::vector<int64_t> line;    // of each line of positions, for Windows
    std::vector<int64_t> run{0};  // of each run, in a vector or window
    int64_t run_length = 0;
    int64_t line_width = 0;  // positions in a line
    int64_t width = 0, step = 0;
    int64_t stride = 0;

    Vectors vectors(const void* data) const { return {data, vector.data(), run.data()}; }
    Positions positions(const void* data) const { return {data, stride}; }
    Windows windows(const void* data) const {
        return {data, line.data(), static_cast<int64_t>(line.size()), width, step};
    }
};

class Operand {
  public:
    virtual ~Operand() = default;

    // Makes the operand of one sample, row and group ready. The result lies in the tensor or in `scratch`,
    // which must serve no other operand.
    virtual const void* load(OperandScratch& scratch, int64_t row, int64_t sample, int64_t group) const = 0;

    const OperandLayout& layout() const { return layout_; }

  protected:
    OperandLayout layout_;
};

// P: [T, position_channels]. pair_width: positions that make a line of U, whose pairs P must match; 0 where P
// is not paired.
std::unique_ptr<Operand> position_operand(const ConvShape& shape, const Image& image, Element element,
                                          Use use, int64_t pair_width);
// U: [T, taps * window_channels].
std::unique_ptr<Operand> window_operand(const ConvShape& shape, const Image& image, Element element, Use use);
// The pixels that U is unfolded from, without padding: [frames * pixels, window_channels].
std::unique_ptr<Operand> pixel_operand(const ConvShape& shape, const Image& image, Element element);

}  // namespace gradfast::cpu
