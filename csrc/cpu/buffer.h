// Scratch memory of one thread, aligned for vectors.
#pragma once

#include <c10/core/impl/alloc_cpu.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

namespace gradfast::cpu {

class Buffer {
  public:
    // At least `bytes` bytes. What was there before is lost if the buffer has to grow; `zero` clears them all
    // then.
    void* bytes(std::size_t bytes, bool zero = false) {
        if (bytes > size_) {
            memory_.reset();
            memory_.reset(c10::alloc_cpu(bytes));
            size_ = bytes;
            if (zero) std::memset(memory_.get(), 0, bytes);
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(void* p) const { c10::free_cpu(p); }
    };
    std::unique_ptr<void, Free> memory_;
    std::size_t size_ = 0;
};

}  // namespace gradfast::cpu
