// Loops over samples, and over the work within one sample where there are too few samples for the threads.
#pragma once

#include <ATen/Parallel.h>

namespace gradfast::cpu {

// Whether threads should take whole samples: else they share the work of each.
inline bool samples_fill_threads(int64_t samples) {
    const int64_t threads = at::get_num_threads();
    return samples % threads == 0 || samples >= 4 * threads;
}

// f(begin, end) over the samples, in parallel if there are enough of them.
template <typename F>
void each_sample(int64_t samples, const F& f) {
    if (samples_fill_threads(samples))
        at::parallel_for(0, samples, 1, f);
    else
        f(0, samples);
}

}  // namespace gradfast::cpu
