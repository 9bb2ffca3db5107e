// The arithmetic of each form of the squared norm, in one place: the kernels choose by it and `explain`
// prints it.
#pragma once

#include "conv_shape.h"

namespace gradfast {

enum class Form { direct, gram, pixel_gram, rank_one };

inline const char* form_name(Form form) {
    switch (form) {
        case Form::direct:
            return "direct";
        case Form::gram:
            return "gram";
        case Form::pixel_gram:
            return "pixel_gram";
        default:
            return "rank_one";
    }
}

// Whether a form can take this norm at all.
inline bool form_applies(Form form, const ConvShape& s) {
    if (form == Form::pixel_gram) return s.unit_stride() && !s.transposed;
    return form != Form::rank_one || s.positions() == 1;
}

// Flops of the squared norms of one sample for all rows, a multiply and an add counted as two. Gram matrices
// are symmetric: only half of each is formed.
inline double form_flops(Form form, const ConvShape& s) {
    const double t = static_cast<double>(s.positions());
    const double positions = static_cast<double>(s.position_channels),
                 windows = static_cast<double>(s.window_width());
    const double shared = s.transposed ? positions : windows, per_row = s.transposed ? windows : positions;
    const double rows = static_cast<double>(s.rows), groups = static_cast<double>(s.groups);
    const double pixels = static_cast<double>(s.frames * ConvShape::product(s.window));
    switch (form) {
        case Form::direct:
            return groups * 2 * rows * positions * windows * t;
        case Form::gram:
            return groups * (shared + rows * per_row) * t * t;
        case Form::pixel_gram:
            return groups * (static_cast<double>(s.window_channels) * pixels * pixels +
                             static_cast<double>(s.taps()) * t * t / 2 + rows * per_row * t * t);
        default:
            return groups * 2 * (shared + rows * per_row);
    }
}

// A Gram matrix's product of two vectors costs as much as if they were this much longer: its tiles are left
// after one vector's length, where those of the direct form stay in the registers for many positions.
// Measured, float32.
constexpr double kProductOverhead = 32;

// Flops, and what goes with them, in units of the direct form's flops.
inline double form_cost(Form form, const ConvShape& s) {
    const double t = static_cast<double>(s.positions());
    const double products = static_cast<double>(s.groups) * static_cast<double>(s.rows) * t * t;
    const double overhead = form == Form::gram || form == Form::pixel_gram ? kProductOverhead * products : 0;
    return form_flops(form, s) + overhead;
}

// The form that "auto" stands for.
inline Form cheapest_form(const ConvShape& s) {
    Form best = Form::direct;
    for (const Form form : {Form::gram, Form::pixel_gram, Form::rank_one})
        if (form_applies(form, s) && form_cost(form, s) < form_cost(best, s)) best = form;
    return best;
}

// Flops of the inner products across the rows of one sample, by tiles of all gradients or by the shared Gram
// matrix.
inline double across_rows_flops(Form form, const ConvShape& s) {
    const double t = static_cast<double>(s.positions());
    const double positions = static_cast<double>(s.position_channels),
                 windows = static_cast<double>(s.window_width());
    const double shared = s.transposed ? positions : windows, per_row = s.transposed ? windows : positions;
    const double rows = static_cast<double>(s.rows), groups = static_cast<double>(s.groups);
    if (form == Form::direct) return groups * positions * windows * (2 * rows * t + rows * rows);
    return groups * (2 * shared * t * t + 2 * rows * per_row * t * t + rows * rows * per_row * t);
}

inline Form gram_across_rows_form(const ConvShape& s) {
    return across_rows_flops(Form::gram, s) < across_rows_flops(Form::direct, s) ? Form::gram : Form::direct;
}

}  // namespace gradfast
