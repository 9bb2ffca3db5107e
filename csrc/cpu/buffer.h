// Scratch memory of one thread, aligned for vectors.
#pragma once

#include <c10/core/impl/alloc_cpu.h>

#include <cstddef>
#include <cstring>
#include <memory>

#include "empty.h"

namespace gradfast::cpu {

class Buffer {
  public:
    // At least `bytes` bytes. What was there before is lost if the buffer has to grow; `zero` clears them all
    // then.
    void* bytes(std::size_t bytes, bool zero = false) {
        if (bytes > size_) {
            memory_.reset();
            memory_.reset(std::malloc(bytes + kAlignment));
            if (!memory_) memory_.reset(c10::alloc_cpu(bytes + kAlignment));  // which says that there is none
            size_ = bytes;
            if (zero) std::memset(aligned(memory_.get()), 0, bytes);
        }
        return memory_ ? aligned(memory_.get()) : nullptr;
    }

  private:
    struct Free {
        void operator()(void* p) const { std::free(p); }
    };
    std::unique_ptr<void, Free> memory_;
    std::size_t size_ = 0;
};

}  // namespace gradfast::cpu
