// The block that runs: its threads, warps and what they wait for. Internal to the emulator.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace emulator {

enum class State : uint8_t { ready, at_barrier, in_collective, done };

struct AsyncCopy {
    void* to;
    const void* from;
    size_t bytes, from_bytes;
};

struct EmulatedThread : Thread {
    Fiber fiber;
    State state = State::done;
    std::vector<AsyncCopy> open;                    // issued, not committed
    std::vector<std::vector<AsyncCopy>> committed;  // oldest first
};

// What the lanes of a mask do together.
enum class Collective { none, sync, shuffle, load_matrix, mma };

struct Rendezvous {
    unsigned mask = 0, arrived = 0, generation = 0;
    Collective kind = Collective::none;
    void* argument[32] = {};
    char order[2] = {};  // ThreadSanitizer's handles, by parity of generation
};

struct Warp {
    Rendezvous rendezvous[4];  // as many divergent groups at once
};

struct Block {
    std::vector<std::unique_ptr<EmulatedThread>> threads;
    std::vector<Warp> warps;
    unsigned size = 0, live = 0, at_barrier = 0, barrier_generation = 0;
    char barrier_order[2] = {};
    std::map<const void*, void*> shared;
    void* dynamic = nullptr;
    size_t shared_bytes = 0;
    unsigned seed = 0;            // of the order in which threads run; 0: by index
    bool copies_at_once = false;  // a cp.async moves its bytes when issued
    const std::function<void()>* body = nullptr;
    EmulatedThread* current = nullptr;
};
extern thread_local Block block;

constexpr size_t kSharedLimit = 227 * 1024;  // of sm_90 and sm_100

[[noreturn]] void fail(const char* message);
// The current thread gives way until something makes it ready again.
void wait_as(State state);
// The copy of a cp.async or ldmatrix: built with the kernels' sanitizers, so that it is checked like a
// kernel's access.
void checked_copy(void* to, const void* from, size_t bytes, size_t from_bytes);

}  // namespace emulator
