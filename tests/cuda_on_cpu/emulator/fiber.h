// A fiber: a stack and the registers that a call preserves. x86-64 System V only.
#pragma once

#include <cstddef>

namespace emulator {

class Fiber {
  public:
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber();

    // The next resume() calls entry, which must never return.
    void reset(void (*entry)());
    // From the scheduler into the fiber; back here by suspend().
    void resume();
    // From the fiber to the scheduler. With last the fiber is not resumed again.
    void suspend(bool last);
    // The sanitizers' half of arriving in a fiber: first thing that entry does.
    static void entered();
    // Orders what the scheduler did before launching against the fibers (ThreadSanitizer).
    static void begin_block();
    void end_block();

  private:
    void* stack_pointer_ = nullptr;
    char* stack_ = nullptr;
    void* fake_stack_ = nullptr;
    void* tsan_ = nullptr;
};

}  // namespace emulator
