#include "host_memory.h"

#include <cstdlib>
#include <cstring>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace gradfast::cpu {

#if defined(__GLIBC__)

namespace {

// glibc's own upper limit for the threshold that it adapts; setting either threshold ends the adapting.
constexpr int kMapAbove = 32 << 20;

bool set_by_user() {
    const char* tunables = std::getenv("GLIBC_TUNABLES");
    return std::getenv("MALLOC_TRIM_THRESHOLD_") || std::getenv("MALLOC_MMAP_THRESHOLD_") ||
           (tunables && (std::strstr(tunables, "trim_threshold") || std::strstr(tunables, "mmap_threshold")));
}

}  // namespace

bool keep_freed_memory(std::size_t bytes) {
    if (set_by_user()) return false;
    return mallopt(M_MMAP_THRESHOLD, kMapAbove) == 1 &&
           mallopt(M_TRIM_THRESHOLD, static_cast<int>(bytes)) == 1;
}

bool release_freed_memory() {
    malloc_trim(0);
    return true;
}

#else

bool keep_freed_memory(std::size_t) {
    return false;
}

bool release_freed_memory() {
    return false;
}

#endif

}  // namespace gradfast::cpu
