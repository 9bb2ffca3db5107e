// Where the kernels' sums go: one atomic for each block, or a second stage in a fixed order.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "../checks.h"
#include "kernels/contraction.h"
#include "runtime.h"

namespace gradfast::cuda {

// The result of a kernel whose blocks each add to one or more of its numbers, parts blocks to each number.
// With torch.use_deterministic_algorithms the blocks store what they have and finish() adds it up in a fixed
// order.
class BlockSums {
  public:
    BlockSums(const at::Tensor& like, at::IntArrayRef shape, int64_t parts)
        : out_(at::zeros(shape, like.options().dtype(accumulate_dtype(like.scalar_type())))), parts_(parts) {
        if (at::globalContext().deterministicAlgorithms())
            partial_ = at::zeros({out_.numel(), parts}, out_.options());
    }

    // For the results from the first-th on.
    Destination from(int64_t first) const {
        const auto bytes = first * static_cast<int64_t>(out_.element_size());
        Destination d;
        d.out = static_cast<char*>(out_.data_ptr()) + bytes;
        if (partial_.defined()) d.partial = static_cast<char*>(partial_.data_ptr()) + bytes * parts_;
        d.parts = parts_;
        return d;
    }

    // clamp: rounding may have brought a squared norm below zero.
    at::Tensor finish(const DeviceScope& device, bool clamp) {
        if (!partial_.defined()) return clamp ? out_.clamp_min_(0) : out_;
        SumParams p;
        p.partial = partial_.data_ptr();
        p.out = out_.data_ptr();
        p.count = out_.numel();
        p.parts = parts_;
        p.clamp = clamp;
        check(launch_sum(out_.scalar_type() == at::kDouble, p, device.stream()));
        return out_;
    }

  private:
    at::Tensor out_, partial_;
    int64_t parts_;
};

// launch(blocks, params) for all blocks, in runs that a grid can hold.
template <class Params, class Launch>
void launch_blocks(int64_t blocks, Params params, Launch launch) {
    for (params.first_block = 0; params.first_block < blocks; params.first_block += most_blocks()) {
        const int64_t left = blocks - params.first_block;
        check(launch(left < most_blocks() ? left : most_blocks(), params));
    }
}

}  // namespace gradfast::cuda
