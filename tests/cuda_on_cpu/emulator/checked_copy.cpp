// Built with the kernels' sanitizers, alone of the emulator's files.
#include "scheduler.h"

namespace emulator {

void checked_copy(void* to, const void* from, size_t bytes, size_t from_bytes) {
    auto* target = static_cast<uint32_t*>(to);
    const auto* source = static_cast<const uint32_t*>(from);
    for (size_t i = 0; i < bytes / 4; ++i) target[i] = i * 4 < from_bytes ? source[i] : 0u;
}

}  // namespace emulator
