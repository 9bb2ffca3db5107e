// How the columns of U are cut for the outer kernels.
#pragma once

#include <algorithm>
#include <vector>

#include "operands.h"
#include "simd/outer.h"

namespace gradfast::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

struct Panel {
    int64_t begin, columns;
    int64_t first;  // of its columns among all of the gradient's
};

// Every run in panels of a few whole vectors, as even as they come.
inline std::vector<Panel> outer_panels(const OperandLayout& layout, Element element) {
    const int64_t lanes = GRADFAST_SIMD(outer_lanes)(element);
    const int64_t vectors = ceil_div(layout.run_length, lanes), count = ceil_div(vectors, kOuterVectors);
    std::vector<Panel> panels;
    int64_t first = 0;  // column of the run
    for (const int64_t run : layout.run) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t begin = vectors * i / count * lanes, end = vectors * (i + 1) / count * lanes;
            panels.push_back({run + begin, std::min(end, layout.run_length) - begin, first + begin});
        }
        first += layout.run_length;
    }
    return panels;
}

}  // namespace gradfast::cpu
