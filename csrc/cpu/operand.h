// What the vector kernels read: where an operand's rows lie in memory, as plain numbers. No torch, no C++
// library.
#pragma once

#include <cstdint>

namespace gradfast::cpu {

enum class Storage { f32, f64, bf16, f16 };  // of tensors
enum class Element { f32, f64, bf16 };  // of the kernels' operands; bf16 where the processor multiplies it

// Vectors of `segments` runs of `length` elements: run s of vector i starts at data + vector[i] + segment[s].
// Offsets are in elements.
struct Vectors {
    const void* data;
    const int64_t* vector;
    const int64_t* segment;
};

// P: one row of `channels` for each position, `stride` elements apart. In bf16, positions come in pairs (see
// Windows) and an element is a pair.
struct Positions {
    const void* data;
    int64_t stride;
};

// U: the window of position line * width + w starts at data + line[line] + w * step and reads the same runs
// for all positions. In bf16 the two elements of a pair belong to positions 2w and 2w + 1 of a line, where w
// and width count pairs; the second of a line of odd width is zero in P.
struct Windows {
    const void* data;
    const int64_t* line;
    int64_t lines, width, step;
};

}  // namespace gradfast::cpu
