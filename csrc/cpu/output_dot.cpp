#include "output_dot.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "operands.h"
#include "simd/reduce.h"

namespace gradfast::cpu {

at::Tensor output_dot(const at::Tensor& y, const at::Tensor& g, int64_t frames) {
    const int64_t rows = g.size(0), samples = g.size(1) / frames, size = y[0].numel();
    auto out = at::empty({samples, rows}, y.options());
    // Image by image in the order of g's memory, so that the cotangents, the larger operand, are never
    // copied.
    const auto cotangents = g[0][0].is_non_overlapping_and_dense() ? g : g.contiguous();
    std::vector<int64_t> strides{size};
    for (const int64_t stride : cotangents.strides().slice(2)) strides.push_back(stride);
    const auto outputs = at::empty_strided(y.sizes(), strides, y.options()).copy_(y);

    const Storage storage = storage_of(g.scalar_type());
    const auto kernel = GRADFAST_SIMD(dot);
    const char* cotangent = static_cast<const char*>(cotangents.const_data_ptr());
    const char* output = static_cast<const char*>(outputs.const_data_ptr());
    at::parallel_for(0, samples * rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t b = i / rows, c = i % rows;
            double total = 0;
            for (int64_t image = b * frames; image < (b + 1) * frames; ++image)
                total += kernel(
                    storage,
                    cotangent + (c * cotangents.stride(0) + image * cotangents.stride(1)) * g.element_size(),
                    output + image * size * y.element_size(), size);
            if (storage == Storage::f64)
                out.mutable_data_ptr<double>()[i] = total;
            else
                out.mutable_data_ptr<float>()[i] = static_cast<float>(total);
        }
    });
    return out;
}

}  // namespace gradfast::cpu
