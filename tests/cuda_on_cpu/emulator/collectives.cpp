// Warp collectives and asynchronous copies. Fragment layouts are those of the PTX manual (mma.m16n8k16,
// mma.m16n8k8, ldmatrix): the one thing here that only a GPU can confirm.
#include <utility>

#include "scheduler.h"

#ifdef GRADFAST_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {
namespace {

unsigned lanes_in_warp(unsigned warp) {
    const unsigned left = block.size - warp * 32;
    return left >= 32 ? ~0u : (1u << left) - 1;
}

Rendezvous& join(Warp& warp, unsigned mask, Collective kind) {
    Rendezvous* joined = nullptr;
    for (auto& r : warp.rendezvous) {
        if (r.arrived && r.mask == mask)
            joined = &r;
        else if (r.arrived && (r.mask & mask))
            fail("divergent warp collective: overlapping masks");
    }
    if (!joined) {
        for (auto& r : warp.rendezvous)
            if (!r.arrived) {
                joined = &r;
                break;
            }
        if (!joined) fail("too many divergent groups in a warp");
        joined->mask = mask;
        joined->kind = kind;
    }
    if (joined->kind != kind)
        fail("divergent warp collective: lanes of one mask are at different operations");
    return *joined;
}

// The lanes of mask meet; the last to come does work(rendezvous) for all.
template <class Work>
void collective(unsigned mask, Collective kind, void* argument, Work work) {
    auto* me = block.current;
    if (!(mask >> me->lane & 1)) fail("warp collective: mask does not contain the calling lane");
    mask &= lanes_in_warp(me->warp);
    Rendezvous& r = join(block.warps[me->warp], mask, kind);
    // Only __syncwarp orders memory: shuffles and mma do not.
    [[maybe_unused]] char* order = kind == Collective::sync ? &r.order[r.generation & 1] : nullptr;
#ifdef GRADFAST_EMULATOR_TSAN
    if (order) __tsan_release(order);
#endif
    r.argument[me->lane] = argument;
    r.arrived |= 1u << me->lane;
    if (r.arrived == mask) {
        work(r);
        for (unsigned lane = 0; lane < 32; ++lane)
            if (mask >> lane & 1) block.threads[me->warp * 32 + lane]->state = State::ready;
        r.arrived = 0;
        ++r.generation;
    } else {
        wait_as(State::in_collective);
    }
#ifdef GRADFAST_EMULATOR_TSAN
    if (order) __tsan_acquire(order);
#endif
}

template <class Argument>
Argument& argument(Rendezvous& r, int lane) {
    return *static_cast<Argument*>(r.argument[lane]);
}

float half_to_float(uint32_t word, int high, Half type) {
    const uint16_t bits = static_cast<uint16_t>(high ? word >> 16 : word);
    if (type == Half::fp16) {
        __half_raw raw;
        raw.x = bits;
        return __half2float(__half(raw));
    }
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
}

// The tensor core reads the upper 19 bits of a TF32 operand.
float tf32_to_float(uint32_t word) {
    word &= 0xffffe000u;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

struct MmaArgument {
    float* d;
    const uint32_t *a, *b;
};

// d [16, 8] += a [16, K] b [K, 8], with the accumulator layout that all these instructions share.
template <int K>
void multiply(Rendezvous& r, const float (&a)[16][K], const float (&b)[K][8]) {
    for (int lane = 0; lane < 32; ++lane) {
        float* d = argument<MmaArgument>(r, lane).d;
        for (int i = 0; i < 4; ++i) {
            const int m = lane / 4 + (i >> 1) * 8, n = lane % 4 * 2 + (i & 1);
            float sum = d[i];
            for (int k = 0; k < K; ++k) sum += a[m][k] * b[k][n];
            d[i] = sum;
        }
    }
}

}  // namespace

void sync_warp(unsigned mask) {
    collective(mask, Collective::sync, nullptr, [](Rendezvous&) {});
}

uint64_t shuffle(unsigned mask, uint64_t value, int source_lane) {
    struct Argument {
        uint64_t value, result;
        int source;
    } mine{value, 0, source_lane};
    collective(mask, Collective::shuffle, &mine, [](Rendezvous& r) {
        for (int lane = 0; lane < 32; ++lane) {
            if (!(r.mask >> lane & 1)) continue;
            auto& a = argument<Argument>(r, lane);
            if (a.source < 0 || a.source > 31 || !(r.mask >> a.source & 1))
                fail("shuffle reads a lane outside its mask");
            a.result = argument<Argument>(r, a.source).value;
        }
    });
    return mine.result;
}

void load_matrix_x4(uint32_t* registers, const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix: row address not 16-byte aligned");
    struct Argument {
        uint32_t* registers;
        uint16_t row[8];
        bool transposed;
    };
    alignas(16) Argument mine{registers, {}, transposed};
    uint32_t words[4];
    checked_copy(words, row, 16, 16);
    std::memcpy(mine.row, words, 16);
    collective(~0u, Collective::load_matrix, &mine, [](Rendezvous& r) {
        for (int lane = 0; lane < 32; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix) {
                uint32_t word = 0;
                for (int high = 0; high < 2; ++high) {
                    int i = lane / 4, j = lane % 4 * 2 + high;
                    if (argument<Argument>(r, lane).transposed) std::swap(i, j);
                    word |= static_cast<uint32_t>(argument<Argument>(r, matrix * 8 + i).row[j])
                            << (16 * high);
                }
                argument<Argument>(r, lane).registers[matrix] = word;
            }
    });
}

void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Half type) {
    MmaArgument mine{d, a, b};
    collective(~0u, Collective::mma, &mine, [type](Rendezvous& r) {
        float left[16][16], right[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const auto& x = argument<MmaArgument>(r, lane);
            for (int high = 0; high < 2; ++high) {
                const int k = lane % 4 * 2 + high;
                for (int i = 0; i < 4; ++i)
                    left[lane / 4 + (i & 1) * 8][k + (i >> 1) * 8] = half_to_float(x.a[i], high, type);
                for (int i = 0; i < 2; ++i) right[k + i * 8][lane / 4] = half_to_float(x.b[i], high, type);
            }
        }
        multiply<16>(r, left, right);
    });
}

void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b) {
    MmaArgument mine{d, a, b};
    collective(~0u, Collective::mma, &mine, [](Rendezvous& r) {
        float left[16][8], right[8][8];
        for (int lane = 0; lane < 32; ++lane) {
            const auto& x = argument<MmaArgument>(r, lane);
            for (int i = 0; i < 4; ++i)
                left[lane / 4 + (i & 1) * 8][lane % 4 + (i >> 1) * 4] = tf32_to_float(x.a[i]);
            for (int i = 0; i < 2; ++i) right[lane % 4 + i * 4][lane / 4] = tf32_to_float(x.b[i]);
        }
        multiply<8>(r, left, right);
    });
}

void async_copy(void* to, const void* from, size_t bytes, size_t from_bytes) {
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async copies 4, 8 or 16 bytes");
    if (from_bytes > bytes) fail("cp.async reads more than it writes");
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes)
        fail("cp.async misaligned");
    if (block.copies_at_once)
        checked_copy(to, from, bytes, from_bytes);
    else
        block.current->open.push_back({to, from, bytes, from_bytes});
}

void async_commit() {
    auto* me = block.current;
    me->committed.push_back(std::move(me->open));
    me->open.clear();
}

void async_wait(int groups_left) {
    auto& groups = block.current->committed;
    while (static_cast<int>(groups.size()) > groups_left) {
        for (const auto& c : groups.front()) checked_copy(c.to, c.from, c.bytes, c.from_bytes);
        groups.erase(groups.begin());
    }
}

}  // namespace emulator
