// Loads and stores of 16 bytes or of one element, and the choice of a template by element type.
#pragma once

#include "channel.h"
#include "device.cuh"

namespace gradfast::cuda {

__device__ __forceinline__ void narrow(float v, float* to) {
    *to = v;
}
__device__ __forceinline__ void narrow(double v, double* to) {
    *to = v;
}
__device__ __forceinline__ void narrow(float v, __nv_bfloat16* to) {
    *to = __float2bfloat16_rn(v);
}
__device__ __forceinline__ void narrow(float v, __half* to) {
    *to = __float2half_rn(v);
}

// kCount neighbours, moved in one instruction where they fill 16 bytes.
template <class Element, int kCount>
struct alignas(kCount * sizeof(Element)) Pack {
    Element value[kCount];
};

template <class Element, int kCount>
__device__ __forceinline__ Pack<Element, kCount> load_pack(const void* base, int64_t index) {
    return *reinterpret_cast<const Pack<Element, kCount>*>(static_cast<const Element*>(base) + index);
}

template <class Element, int kCount>
__device__ __forceinline__ void store_pack(void* base, int64_t index, const Pack<Element, kCount>& pack) {
    *reinterpret_cast<Pack<Element, kCount>*>(static_cast<Element*>(base) + index) = pack;
}

// Neighbouring threads take neighbouring packs of channels; what is left of the block takes further
// positions.
__host__ __device__ constexpr int threads_across(int channels, int pack) {
    int across = 1;
    while (across < kWarpSize && across * pack < channels) across *= 2;
    return across;
}

template <class T>
struct TypeTag {
    using type = T;
};

// f(TypeTag<Element>) for an element type.
template <class F>
auto with_element(ElementType type, F f) {
    switch (type) {
        case ElementType::f64:
            return f(TypeTag<double>{});
        case ElementType::bf16:
            return f(TypeTag<__nv_bfloat16>{});
        case ElementType::f16:
            return f(TypeTag<__half>{});
        case ElementType::f32:
            break;
    }
    return f(TypeTag<float>{});
}

}  // namespace gradfast::cuda
