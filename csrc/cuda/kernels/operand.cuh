// Reading an operand as a matrix [positions, columns] into shared memory.
#pragma once

#include "contraction.h"
#include "device.cuh"

namespace gradfast::cuda {

struct Quotient {
    int quotient, remainder;
};

__device__ __forceinline__ Quotient divide(int n, const Divisor& d) {
    const auto u = static_cast<uint32_t>(n);
    const int q = static_cast<int>((multiply_high(u, d.multiplier) + u) >> d.shift);
    return {q, n - q * static_cast<int>(d.value)};
}

// A position, as the frame and the pixel that tap 0 of its window meets (which may lie outside of the image).
struct Pixel {
    int frame, at[3];
    bool present;
};

__device__ __forceinline__ Pixel pixel_of(const Operand& op, const Positions& positions, int t) {
    Pixel p{0, {0, 0, t}, t < positions.count};
    if (op.windowed) {
        const auto frame = divide(t, positions.frame);
        const auto plane = divide(frame.remainder, positions.plane);
        const auto line = divide(plane.remainder, positions.line);
        p.frame = frame.quotient;
        p.at[0] = plane.quotient * op.stride[0] - op.padding[0];
        p.at[1] = line.quotient * op.stride[1] - op.padding[1];
        p.at[2] = line.remainder * op.stride[2] - op.padding[2];
    }
    return p;
}

// The offset of pixel p under tap, or -1 outside of the image.
__device__ __forceinline__ int64_t tap_offset(const Operand& op, const Pixel& p, int tap) {
    const auto plane = divide(tap, op.kernel_plane);
    const auto line = divide(plane.remainder, op.kernel_line);
    const int a = p.at[0] + plane.quotient * op.dilation[0];
    const int b = p.at[1] + line.quotient * op.dilation[1];
    const int c = p.at[2] + line.remainder * op.dilation[2];
    const bool inside = static_cast<unsigned>(a) < static_cast<unsigned>(op.extent[0]) &&
                        static_cast<unsigned>(b) < static_cast<unsigned>(op.extent[1]) &&
                        static_cast<unsigned>(c) < static_cast<unsigned>(op.extent[2]);
    if (!inside) return -1;
    return p.frame * op.frame_stride +
           ((static_cast<int64_t>(a) * op.extent[1] + b) * op.extent[2] + c) * op.pixel_stride;
}

// Goes along the columns of one position; divides only where it starts and where it enters another tap's
// pixel.
struct ColumnWalk {
    const Operand& op;
    const Pixel& position;
    int column, tap = 0, channel;
    int64_t pixel;  // offset of the pixel under the tap, or -1

    __device__ __forceinline__ ColumnWalk(const Operand& operand, const Pixel& p, int first_column)
        : op(operand), position(p), column(first_column), channel(first_column) {
        if (op.windowed) {
            const auto at = divide(column, op.channels);
            tap = at.quotient, channel = at.remainder;
            pixel = tap_offset(op, position, tap);
        } else {
            pixel = static_cast<int64_t>(position.at[2]) * op.pixel_stride;
        }
    }
    // The offset of (position, column), or -1 where the matrix has a zero.
    __device__ __forceinline__ int64_t offset() const {
        if (!position.present || column >= op.width) return -1;
        return pixel < 0 ? -1 : pixel + channel;
    }
    // Channels of one tap are a multiple of the columns stepped over.
    __device__ __forceinline__ void step(int columns) {
        column += columns, channel += columns;
        if (!op.windowed || channel < static_cast<int>(op.channels.value)) return;
        channel = 0;
        pixel = tap_offset(op, position, ++tap);
    }
};

template <class Element>
__device__ __forceinline__ const Element* operand_base(const Operand& op, int row, int64_t sample,
                                                       int group) {
    return static_cast<const Element*>(op.data) + row * op.row_stride + sample * op.sample_stride +
           group * op.group_stride;
}

template <class Element>
constexpr int kChunk = 16 / static_cast<int>(sizeof(Element));

// Columns column ... column + kChunk - 1 of one position, to shared memory: by one cp.async, by several
// narrower ones, or, where channels are an odd number of 16-bit elements, through registers; the barrier that
// orders the one orders the other.
template <class Element>
__device__ __forceinline__ void stage_chunk(Element* to, const Operand& op, const Element* base,
                                            const Pixel& pixel, int column) {
    constexpr int kPieceBytes = sizeof(Element) < 4 ? 4 : static_cast<int>(sizeof(Element));
    constexpr int kPiece = kPieceBytes / static_cast<int>(sizeof(Element));
    ColumnWalk walk(op, pixel, column);
    if (op.copy_bytes == 16) {
        const int64_t offset = walk.offset();
        copy_async<16>(to, base + (offset < 0 ? 0 : offset), offset >= 0);
        return;
    }
    if (op.copy_bytes == kPieceBytes) {
#pragma unroll 1
        for (int e = 0; e < kChunk<Element>; e += kPiece, walk.step(kPiece)) {
            const int64_t offset = walk.offset();
            copy_async<kPieceBytes>(to + e, base + (offset < 0 ? 0 : offset), offset >= 0);
        }
        return;
    }
    if constexpr (sizeof(Element) < 4) {
#pragma unroll
        for (int e = 0; e < kChunk<Element>; ++e, walk.step(1)) {
            const int64_t offset = walk.offset();
            to[e] = offset < 0 ? Element{} : base[offset];
        }
    }
}

}  // namespace gradfast::cuda
