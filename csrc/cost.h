// The arithmetic of each form of the squared norm, in one place: the kernels choose by it and `explain`
// prints it.
#pragma once

#include <string>

#include "checks.h"

namespace gradfast {

enum class Form { direct, gram, pixel_gram, rank_one };

inline const char* form_name(Form f) {
    switch (f) {
        case Form::direct:
            return "direct";
        case Form::gram:
            return "gram";
        case Form::pixel_gram:
            return "pixel_gram";
        case Form::rank_one:
            return "rank_one";
    }
    return "";
}

// One sample's gradients for all rows: rows x (P' U) with P [T, position_width], U [T, window_width]; one of
// them is shared by the rows. Flops count multiply and add as two.
struct NormProblem {
    double rows, positions, shared_width, row_width, groups;
    double pixels = 0;  // of the padded image that pixel_gram forms its Gram matrix over; 0: not applicable
    double taps = 1;
};

inline double form_flops(Form f, const NormProblem& p) {
    const double t = p.positions;
    switch (f) {
        case Form::direct:
            return p.groups * 2 * p.rows * p.row_width * p.shared_width * t;
        // Both Gram matrices are symmetric: half of each.
        case Form::gram:
            return p.groups * (p.shared_width + p.rows * p.row_width) * t * t;
        case Form::pixel_gram:
            return p.groups * ((p.shared_width / p.taps) * p.pixels * p.pixels + p.taps * t * t +
                               p.rows * p.row_width * t * t);
        case Form::rank_one:
            return p.groups * 2 * (p.shared_width + p.rows * p.row_width);
    }
    return 0;
}

}  // namespace gradfast
