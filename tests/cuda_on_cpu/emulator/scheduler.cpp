#include "scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#ifdef GRADFAST_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {

thread_local Thread* self = nullptr;
thread_local Block block;

void fail(const char* message) {
    std::fprintf(stderr, "emulator: %s", message);
    if (const auto* t = block.current)
        std::fprintf(stderr, " [block %u,%u,%u thread %u,%u,%u]", t->block.x, t->block.y, t->block.z,
                     t->index.x, t->index.y, t->index.z);
    std::fputc('\n', stderr);
    std::abort();
}

void wait_as(State state) {
    auto* me = block.current;
    me->state = state;
    me->fiber.suspend(state == State::done);
}

namespace {

// Shared memory. Under AddressSanitizer every array is an allocation of its own, so that an overrun is seen;
// otherwise an arena, mapped before any fiber runs, since ThreadSanitizer takes mmap for a write.
#ifdef GRADFAST_EMULATOR_ASAN
void prepare_shared() {}
void* allocate_shared(size_t bytes) {
    return std::malloc(bytes);
}
void free_shared(void* p) {
    std::free(p);
}
#else
thread_local char* arena = nullptr;
thread_local size_t arena_used = 0;
void prepare_shared() {
    if (!arena)
        arena = static_cast<char*>(
            mmap(nullptr, 4 * kSharedLimit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}
void* allocate_shared(size_t bytes) {
    void* p = arena + arena_used;
    arena_used += (bytes + 127) / 128 * 128 + 128;
    return p;
}
void free_shared(void*) {
    arena_used = 0;
}
#endif

void* poisoned_shared(size_t bytes) {
    block.shared_bytes += bytes;
    if (block.shared_bytes > kSharedLimit) fail("more than 227 KiB of shared memory");
    auto* p = static_cast<unsigned char*>(allocate_shared(bytes));
    for (volatile unsigned char* q = p; q < p + bytes; ++q) *q = 0xff;  // NaN in every float type
    return p;
}

void thread_main() {
    Fiber::entered();
    (*block.body)();
    if (!block.current->open.empty() || !block.current->committed.empty())
        fail("thread exits with a cp.async in flight");
    --block.live;
    wait_as(State::done);
    std::abort();
}

void resume(EmulatedThread& thread) {
    block.current = &thread;
    self = &thread;
    thread.fiber.resume();
    block.current = nullptr;
    self = nullptr;
}

void open_barrier() {
    for (unsigned i = 0; i < block.size; ++i)
        if (block.threads[i]->state == State::at_barrier) block.threads[i]->state = State::ready;
    block.at_barrier = 0;
    ++block.barrier_generation;
}

[[noreturn]] void deadlock() {
    for (unsigned i = 0; i < block.size; ++i) {
        block.current = block.threads[i].get();
        if (block.current->state == State::in_collective)
            fail("deadlock: waits in a warp collective for lanes that never come");
    }
    for (unsigned i = 0; i < block.size; ++i) {
        block.current = block.threads[i].get();
        if (block.current->state == State::at_barrier) fail("deadlock at __syncthreads");
    }
    fail("deadlock");
}

// Runs warp after warp as far as each goes, in shuffled order and with early changes of warp when there is a
// seed.
bool run_ready_threads(std::mt19937& random, std::vector<unsigned>& warps, std::vector<unsigned>& lanes) {
    bool any = false;
    if (block.seed) std::shuffle(warps.begin(), warps.end(), random);
    for (unsigned warp : warps) {
        for (bool progress = true; progress;) {
            progress = false;
            if (block.seed) std::shuffle(lanes.begin(), lanes.end(), random);
            for (unsigned lane : lanes) {
                const unsigned i = warp * 32 + lane;
                if (i >= block.size || block.threads[i]->state != State::ready) continue;
                resume(*block.threads[i]);
                progress = any = true;
            }
            if (block.seed && (random() & 3) == 0) break;
        }
    }
    return any;
}

void run_block(dim3 index, dim3 grid, dim3 shape, size_t dynamic, std::mt19937& random) {
    block.live = block.size;
    block.at_barrier = 0;
    block.shared_bytes = 0;
    block.dynamic = dynamic ? poisoned_shared(dynamic) : nullptr;
    for (unsigned i = 0; i < block.size; ++i) {
        auto& t = *block.threads[i];
        t.fiber.reset(thread_main);
        t.state = State::ready;
        t.open.clear();
        t.committed.clear();
        t.index = uint3{i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
        t.block = uint3{index.x, index.y, index.z};
        t.block_size = shape;
        t.grid_size = grid;
        t.lane = i & 31;
        t.warp = i >> 5;
    }
    Fiber::begin_block();
    std::vector<unsigned> warps((block.size + 31) / 32), lanes(32);
    for (unsigned i = 0; i < warps.size(); ++i) warps[i] = i;
    for (unsigned i = 0; i < lanes.size(); ++i) lanes[i] = i;
    while (block.live) {
        bool progress = run_ready_threads(random, warps, lanes);
        if (block.live && block.at_barrier == block.live) {
            open_barrier();
            progress = true;
        }
        if (!progress) deadlock();
    }
    for (unsigned i = 0; i < block.size; ++i) block.threads[i]->fiber.end_block();
    for (auto& entry : block.shared) free_shared(entry.second);
    block.shared.clear();
    if (block.dynamic) free_shared(block.dynamic);
}

}  // namespace

void* static_shared(const void* key, size_t bytes) {
    void*& p = block.shared[key];
    if (!p) p = poisoned_shared(bytes);
    return p;
}

void* dynamic_shared() {
    return block.dynamic;
}

void sync_threads() {
    [[maybe_unused]] char* order = &block.barrier_order[block.barrier_generation & 1];
#ifdef GRADFAST_EMULATOR_TSAN
    __tsan_release(order);
#endif
    block.current->state = State::at_barrier;
    if (++block.at_barrier == block.live) open_barrier();
    wait_as(block.current->state);
#ifdef GRADFAST_EMULATOR_TSAN
    __tsan_acquire(order);
#endif
}

void launch(dim3 grid, dim3 shape, size_t dynamic, const std::function<void()>& body) {
    const unsigned size = shape.x * shape.y * shape.z;
    if (size == 0 || size > 1024) fail("a block has 1 to 1024 threads");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("empty grid");
    if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) fail("grid too large");
    prepare_shared();
    block.size = size;
    block.body = &body;
    while (block.threads.size() < size) block.threads.emplace_back(new EmulatedThread);
    if (block.warps.size() < (size + 31) / 32) block.warps.resize((size + 31) / 32);
    const char* seed = std::getenv("GRADFAST_EMULATOR_SEED");
    const char* timing = std::getenv("GRADFAST_EMULATOR_CP_ASYNC");
    block.seed = seed ? static_cast<unsigned>(std::atoi(seed)) : 0;
    block.copies_at_once = timing && !std::strcmp(timing, "eager");
    std::mt19937 random(block.seed);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) run_block(dim3(x, y, z), grid, shape, dynamic, random);
}

}  // namespace emulator
