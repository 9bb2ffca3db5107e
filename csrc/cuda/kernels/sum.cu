// The second stage of a sum in a fixed order: one warp adds up the parts of one result.
#include "contraction.h"
#include "device.cuh"

namespace gradfast::cuda {
namespace {

constexpr int kThreads = 128;

template <class Accumulator>
__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ SumParams p) {
    constexpr int kWarps = kThreads / kWarpSize;
    const int lane = threadIdx.x % kWarpSize;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; i < p.count;
         i += static_cast<int64_t>(gridDim.x) * kWarps) {
        const auto* partial = static_cast<const Accumulator*>(p.partial) + i * p.parts;
        Accumulator sum = 0;
        for (int64_t j = lane; j < p.parts; j += kWarpSize) sum += partial[j];
        sum = warp_sum(sum);
        if (p.clamp && sum < 0) sum = 0;
        if (lane == 0) static_cast<Accumulator*>(p.out)[i] = sum;
    }
}

}  // namespace

cudaError_t launch_sum(bool is_double, const SumParams& params, cudaStream_t stream) {
    constexpr int64_t kMostBlocks = 1 << 16;
    const int64_t wanted = (params.count + kThreads / kWarpSize - 1) / (kThreads / kWarpSize);
    const int64_t blocks = wanted < kMostBlocks ? wanted : kMostBlocks;
    return is_double ? launch(sum_kernel<double>, blocks, kThreads, 0, stream, params)
                     : launch(sum_kernel<float>, blocks, kThreads, 0, stream, params);
}

}  // namespace gradfast::cuda
