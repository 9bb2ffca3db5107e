// What the host side asks of the CUDA runtime. The test-only build over the CPU emulator (tests/cuda_on_cpu)
// answers the same questions for CPU tensors, so that every line above this file is one source.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#ifdef GRADFAST_CUDA_ON_CPU
#include <cuda_runtime_api.h>

#include "emulated_runtime.h"
#define GRADFAST_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(gradfast_emulated, CPU, m)
#else
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define GRADFAST_CUDA_IMPL(m) TORCH_LIBRARY_IMPL(gradfast, CUDA, m)

namespace gradfast::cuda {

// While it lives, the tensor's device is the current one; stream() is torch's current stream there.
class DeviceScope {
  public:
    explicit DeviceScope(const at::Tensor& t)
        : guard_(t.device()), stream_(c10::cuda::getCurrentCUDAStream()) {
        C10_CUDA_CHECK(
            cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, t.get_device()));
    }
    cudaStream_t stream() const { return stream_; }
    int multiprocessors() const { return multiprocessors_; }

  private:
    c10::cuda::CUDAGuard guard_;
    cudaStream_t stream_;
    int multiprocessors_ = 0;
};

// The most blocks of one launch (the limit of gridDim.x); more go in several launches.
inline int64_t most_blocks() {
    return (int64_t{1} << 31) - 1;
}

inline void check(cudaError_t status) {
    C10_CUDA_CHECK(status);
}

}  // namespace gradfast::cuda
#endif
