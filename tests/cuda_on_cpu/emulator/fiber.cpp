// Built without -fsanitize=thread (GRADFAST_EMULATOR_TSAN tells it that the kernels are): what the scheduler
// does to switch must not order the threads of a block against each other.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdlib>

#ifdef GRADFAST_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef GRADFAST_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

extern "C" void gradfast_emulator_switch(void** save, void* to);
asm(R"(
.text
.globl gradfast_emulator_switch
.hidden gradfast_emulator_switch
.type gradfast_emulator_switch,@function
gradfast_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size gradfast_emulator_switch, .-gradfast_emulator_switch
)");

namespace emulator {
namespace {

constexpr size_t kGuard = 4096;
constexpr size_t kStack = 256 * 1024;
constexpr int kSavedRegisters = 6;

struct SchedulerContext {
    void* stack_pointer = nullptr;
    void* fake_stack = nullptr;
    const void* stack_bottom = nullptr;
    size_t stack_size = 0;
    void* tsan = nullptr;
    char started = 0, finished = 0;
};
thread_local SchedulerContext scheduler;

}  // namespace

Fiber::~Fiber() {
    if (stack_) munmap(stack_, kStack + kGuard);
}

void Fiber::reset(void (*entry)()) {
    if (!stack_) {
        stack_ = static_cast<char*>(mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stack_ == MAP_FAILED) abort();
        mprotect(stack_, kGuard, PROT_NONE);
    }
#ifdef GRADFAST_EMULATOR_ASAN
    __asan_unpoison_memory_region(stack_ + kGuard, kStack);  // frames abandoned by the last block
#endif
    void** top = reinterpret_cast<void**>(stack_ + kGuard + kStack);
    top[-1] = nullptr;  // keeps the stack 16-byte aligned at entry
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 0; i < kSavedRegisters; ++i) top[-3 - i] = nullptr;
    stack_pointer_ = top - 2 - kSavedRegisters;
#ifdef GRADFAST_EMULATOR_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
}

void Fiber::resume() {
#ifdef GRADFAST_EMULATOR_TSAN
    __tsan_switch_to_fiber(tsan_, 1);
#endif
#ifdef GRADFAST_EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&scheduler.fake_stack, stack_ + kGuard, kStack);
#endif
    gradfast_emulator_switch(&scheduler.stack_pointer, stack_pointer_);
#ifdef GRADFAST_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend([[maybe_unused]] bool last) {
#ifdef GRADFAST_EMULATOR_TSAN
    if (last) __tsan_release(&scheduler.finished);
    __tsan_switch_to_fiber(scheduler.tsan, 1);
#endif
#ifdef GRADFAST_EMULATOR_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, scheduler.stack_bottom,
                                   scheduler.stack_size);
#endif
    gradfast_emulator_switch(&stack_pointer_, scheduler.stack_pointer);
#ifdef GRADFAST_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
}

void Fiber::entered() {
#ifdef GRADFAST_EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
#ifdef GRADFAST_EMULATOR_TSAN
    __tsan_acquire(&scheduler.started);
#endif
}

void Fiber::begin_block() {
#ifdef GRADFAST_EMULATOR_TSAN
    scheduler.tsan = __tsan_get_current_fiber();
    __tsan_release(&scheduler.started);
#endif
}

void Fiber::end_block() {
#ifdef GRADFAST_EMULATOR_TSAN
    __tsan_acquire(&scheduler.finished);
    __tsan_destroy_fiber(tsan_);
#endif
}

}  // namespace emulator
