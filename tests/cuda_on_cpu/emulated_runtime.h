// csrc/cuda/runtime.h for CPU tensors: the streams and devices of the emulator.
#pragma once

#include <c10/util/Exception.h>

#include <cstdlib>

namespace gradfast::cuda {

inline int64_t environment_number(const char* name, int64_t missing) {
    const char* text = std::getenv(name);
    return text ? std::atoll(text) : missing;
}

class DeviceScope {
  public:
    explicit DeviceScope(const at::Tensor&) {}
    cudaStream_t stream() const { return nullptr; }
    // Few, so that the shapes of a test reach every variant; read at each call, so that a test can vary it.
    int multiprocessors() const {
        return static_cast<int>(environment_number("GRADFAST_EMULATOR_MULTIPROCESSORS", 1));
    }
};

inline int64_t most_blocks() {
    return environment_number("GRADFAST_EMULATOR_MOST_BLOCKS", (int64_t{1} << 31) - 1);
}

inline void check(cudaError_t status) {
    TORCH_CHECK(status == cudaSuccess, "the emulator refused a launch: ", static_cast<int>(status));
}

}  // namespace gradfast::cuda
