// Memory for cotangents and scratch, aligned for vectors.
//
// An aligned allocation of glibc before 2.38 frees the piece before the aligned address to a cache of the
// thread, where it keeps the neighbours from joining once they are freed: the cotangents of a sweep, ever
// larger, then find no gap. Here the piece stays with the block.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace gradfast::cpu {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kWhole = 1 << 16;  // bytes from which a block's place matters

inline void* aligned(void* raw) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(raw) + kAlignment - 1) &
                                   ~(kAlignment - 1));
}

// As at::empty, contiguous.
inline at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
    std::size_t bytes = options.dtype().itemsize();
    for (const int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    void* raw = bytes < kWhole ? nullptr : std::malloc(bytes + kAlignment);
    if (!raw) return at::empty(sizes, options);  // small, or for torch to say that there is no memory
    return at::from_blob(aligned(raw), sizes, [raw](void*) { std::free(raw); }, options);
}

}  // namespace gradfast::cpu
