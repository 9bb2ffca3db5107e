#include "../strided.h"

#include "multiply.h"

namespace gradfast::cpu::GRADFAST_ARCH {
namespace {

// 24 accumulators where there are 32 registers, 12 where there are 16.
constexpr int kVectors = kRegisters == 32 ? 4 : 2;
constexpr int kLanes = kWidth<float>;
constexpr int kPanel = kVectors * kLanes;
constexpr int kRows = 6;  // pixels of a tile

inline void set(float& unit, int64_t, float value) {
    unit = value;
}
inline void set(float& unit, int64_t, Bf16 value) {
    unit = to_float(value);
}
inline void set(Bf16Pair& unit, int64_t half, Bf16 value) {
    (half == 0 ? unit.even : unit.odd) = value;
}

template <typename T>
class Strided {
    using Unit = typename UnitOf<T>::type;
    static constexpr int64_t kElements = UnitOf<T>::elements;
    using M = Multiply<Unit>;

  public:
    static void pad(const StridedProblem& p, int64_t from, const PaddedImages& padded, int64_t image) {
        const T* g = static_cast<const T*>(p.g) + from * p.g_image;
        Unit* out = static_cast<Unit*>(padded.data) + image * padded.image_units() + padded.first;
        for (int64_t y = 0; y < p.g_height; ++y)
            for (int64_t x = 0; x < p.g_width; ++x)
                pad_position(g + y * p.g_y + x * p.g_x, p.out_channels,
                             out + (y * padded.width + x) * padded.units);
    }

    static void pack(const StridedProblem& p, const StridedPhase& phase, int64_t units, int64_t channel,
                     Unit* out) {
        const int64_t columns = smaller(kPanel, p.in_channels - channel), width = padded_columns(columns);
        for (int64_t tap = 0; tap < phase.taps; ++tap) {
            const T* weight = static_cast<const T*>(p.weight) + phase.tap_weight[tap] + channel * p.w_i;
            for (int64_t unit = 0; unit < units; ++unit, out += width) {
                for (int64_t i = 0; i < width; ++i) {
                    out[i] = Unit{};
                    for (int64_t half = 0; half < kElements; ++half) {
                        const int64_t o = unit * kElements + half;
                        if (i < columns && o < p.out_channels)
                            set(out[i], half, weight[o * p.w_o + i * p.w_i]);
                    }
                }
            }
        }
    }

    static void products(const StridedProblem& p, const StridedPhase& phase, const PaddedImages& padded,
                         int64_t first, int64_t count, int64_t channel, const Unit* packed) {
        const int64_t columns = smaller(kPanel, p.in_channels - channel);
        const int64_t vectors = padded_columns(columns) / kLanes;
        const Unit* a[kRows];
        T* c[kRows];
        int64_t rows = 0;
        for (int64_t image = 0; image < count; ++image) {
            const Unit* from = static_cast<const Unit*>(padded.data) + image * padded.image_units();
            T* to = static_cast<T*>(p.dx) + (first + image) * p.dx_image + channel;
            for (int64_t pixel = 0; pixel < phase.pixels; ++pixel) {
                a[rows] = from + phase.from[pixel];
                c[rows] = to + phase.to[pixel];
                if (++rows == kRows) {
                    tile_of(rows, vectors)(phase, padded.units, a, packed, c, columns);
                    rows = 0;
                }
            }
        }
        if (rows > 0) tile_of(rows, vectors)(phase, padded.units, a, packed, c, columns);
    }

  private:
    static int64_t padded_columns(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

    static void pad_position(const T* g, int64_t channels, Unit* out) {
        if constexpr (sizeof(Unit) == sizeof(T) * kElements) {
            __builtin_memcpy(out, g, channels * sizeof(T));  // the half behind an odd last channel stays zero
        } else {
            for (int64_t o = 0; o < channels; ++o) set(out[o], 0, g[o]);
        }
    }

    // c[i][0 .. columns) = sum over taps and units of a[i][tap][unit] * packed[tap][unit][columns].
    template <int Rows, int Vectors>
    static void tile(const StridedPhase& phase, int64_t units, const Unit* const* a, const Unit* packed,
                     T* const* c, int64_t columns) {
        Vec<float> sum[Rows][Vectors] = {};
        for (int64_t tap = 0; tap < phase.taps; ++tap) {
            const Unit* row[Rows];
#pragma GCC unroll 6
            for (int i = 0; i < Rows; ++i) row[i] = a[i] + phase.tap_from[tap];
            for (int64_t k = 0; k < units; ++k, packed += Vectors * kLanes) {
                typename M::Operand weights[Vectors];
#pragma GCC unroll 4
                for (int j = 0; j < Vectors; ++j) weights[j] = M::load(packed + j * kLanes);
#pragma GCC unroll 6
                for (int i = 0; i < Rows; ++i) {
                    const typename M::Operand value = M::broadcast(row[i][k]);
#pragma GCC unroll 4
                    for (int j = 0; j < Vectors; ++j) M::add(sum[i][j], value, weights[j]);
                }
            }
        }
#pragma GCC unroll 6
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) store_lanes(c[i] + j * kLanes, sum[i][j], columns - j * kLanes);
        }
    }

    using Tile = void (*)(const StridedPhase&, int64_t, const Unit* const*, const Unit*, T* const*, int64_t);

    template <int Vectors>
    static Tile tile_of(int64_t rows) {
        static constexpr Tile tiles[kRows] = {tile<1, Vectors>, tile<2, Vectors>, tile<3, Vectors>,
                                              tile<4, Vectors>, tile<5, Vectors>, tile<6, Vectors>};
        return tiles[rows - 1];
    }

    static Tile tile_of(int64_t rows, int64_t vectors) {
        if constexpr (kVectors == 4) {
            if (vectors == 4) return tile_of<4>(rows);
            if (vectors == 3) return tile_of<3>(rows);
        }
        return vectors == 2 ? tile_of<2>(rows) : tile_of<1>(rows);
    }
};

}  // namespace

int64_t strided_unit(Storage storage) {
    return storage == Storage::bf16 ? UnitOf<Bf16>::elements : 1;
}

int64_t strided_panel() {
    return kPanel;
}

void strided_pad(const StridedProblem& problem, int64_t from, const PaddedImages& padded, int64_t image) {
    if (problem.storage == Storage::bf16)
        Strided<Bf16>::pad(problem, from, padded, image);
    else
        Strided<float>::pad(problem, from, padded, image);
}

void strided_pack(const StridedProblem& problem, const StridedPhase& phase, int64_t units, int64_t channel,
                  void* packed) {
    if (problem.storage == Storage::bf16)
        Strided<Bf16>::pack(problem, phase, units, channel,
                            static_cast<typename UnitOf<Bf16>::type*>(packed));
    else
        Strided<float>::pack(problem, phase, units, channel, static_cast<float*>(packed));
}

void strided_products(const StridedProblem& problem, const StridedPhase& phase, const PaddedImages& padded,
                      int64_t first, int64_t count, int64_t channel, const void* packed) {
    if (problem.storage == Storage::bf16)
        Strided<Bf16>::products(problem, phase, padded, first, count, channel,
                                static_cast<const typename UnitOf<Bf16>::type*>(packed));
    else
        Strided<float>::products(problem, phase, padded, first, count, channel,
                                 static_cast<const float*>(packed));
}

}  // namespace gradfast::cpu::GRADFAST_ARCH
