// Which form the norm of a weight gradient takes, for `explain` and the benchmarks: asked of the kernels' own
// cost model by the shapes alone.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gradfast {

struct WeightNormForms {
    std::string chosen;                                 // what form="auto" takes
    std::vector<std::pair<std::string, double>> flops;  // of one sample, for each form that applies
};

// The arguments of conv_sqnorm, with the shapes of x [B * frames, Cin, *in] and g [C, B * frames, Cout,
// *out]. A linear layer is a convolution of one dimension and extent 1: x [B, D, T], g [C, B, O, T].
WeightNormForms weight_norm_forms(const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                                  const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                                  int64_t groups, bool transposed, int64_t frames);

// One sample's flops of the inner products across all pairs of rows, in the form that conv_gram takes.
double weight_gram_flops(const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                         const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                         const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                         int64_t groups, bool transposed, int64_t frames);

// What the CUDA operators take for the same, in any build: the form, and the kernel by name. math is bf16,
// fp16, tf32, fp32 or fp64; a device of so many multiprocessors is assumed.
std::pair<std::string, std::string> cuda_weight_norm_form(
    const std::vector<int64_t>& x, const std::vector<int64_t>& g, const std::vector<int64_t>& kernel_size,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation, int64_t groups, bool transposed, int64_t frames,
    const std::string& math, int multiprocessors);

}  // namespace gradfast
