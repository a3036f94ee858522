// AMX tiles -> the bf16 kernel; in plain C++ where NMK_AMX is not defined.
//
// The strips' layout is the tile unit's own: sixteen words a row are sixteen pixels of two channels, and
// sixteen such rows, thirty-two channels, are the B operand as it stands in memory; weights are A, sixteen
// outputs a tile. Two by two tiles of sums are live, so that each load feeds two products. Included after
// pairs.h.

namespace nmk {
namespace NMK_SPACE {

static_assert(L == 16, "a tile's row is sixteen words");

#ifdef NMK_AMX

struct alignas(64) TileShape {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tile unit is this thread's own: set up for a call, left as it was found.
struct Tiles {
    Tiles() {
        static const TileShape shape;
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_release(); }
};

#define NMK_ZERO(t) _tile_zero(t)
#define NMK_LOAD(t, from, step) _tile_loadd(t, from, (step) * 4)
#define NMK_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#define NMK_STORE(t, to, step) _tile_stored(t, to, (step) * 4)

#else

struct Tiles {
    uint32_t words[8][16][16];
};

inline float half(uint32_t word, int upper) {
    const uint32_t bits = upper ? word & 0xffff0000u : word << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void tile_dot(uint32_t (*sum)[16], const uint32_t (*a)[16], const uint32_t (*b)[16]) {
    for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 16; ++n) {
                float value;
                std::memcpy(&value, &sum[m][n], sizeof value);
                value += half(a[m][k], 0) * half(b[k][n], 0);
                value += half(a[m][k], 1) * half(b[k][n], 1);
                std::memcpy(&sum[m][n], &value, sizeof value);
            }
        }
    }
}

inline void tile_copy(uint32_t (*to)[16], const void* from, ptrdiff_t step) {
    for (int row = 0; row < 16; ++row) {
        std::memcpy(to[row], static_cast<const uint32_t*>(from) + row * step, 64);
    }
}

#define NMK_ZERO(t) std::memset(tiles.words[t], 0, sizeof tiles.words[t])
#define NMK_LOAD(t, from, step) tile_copy(tiles.words[t], from, step)
#define NMK_DOT(sum, a, b) tile_dot(tiles.words[sum], tiles.words[a], tiles.words[b])
#define NMK_STORE(t, to, step)                                                                     \
    for (int row = 0; row < 16; ++row) std::memcpy((to) + row * (step), tiles.words[t][row], 64)

#endif

constexpr ptrdiff_t kTileWords = 16 * 16;

// Thirty-two outputs (or sixteen) at two vectors of pixels (or one), over all of the reduction.
template <bool second_outputs, bool second_pixels>
inline void tile_sums(const TileJob& job, const uint32_t* weight, const uint32_t* first,
                      const uint32_t* second, float* sums, float* next_sums,
                      [[maybe_unused]] Tiles& tiles) {
    const ptrdiff_t below = static_cast<ptrdiff_t>(job.tap_count) * kTileWords;
    NMK_ZERO(0);
    NMK_ZERO(1);
    NMK_ZERO(2);
    NMK_ZERO(3);
    for (int i = 0; i < job.tap_count; ++i, weight += kTileWords) {
        NMK_LOAD(6, first + job.tap_offsets[i], job.pair_step);
        NMK_LOAD(4, weight, 16);
        NMK_DOT(0, 4, 6);
        if constexpr (second_pixels) {
            NMK_LOAD(7, second + job.tap_offsets[i], job.pair_step);
            NMK_DOT(1, 4, 7);
        }
        if constexpr (second_outputs) {
            NMK_LOAD(5, weight + below, 16);
            NMK_DOT(2, 5, 6);
        }
        if constexpr (second_outputs && second_pixels) NMK_DOT(3, 5, 7);
    }
    // [output][row of the tile][position]
    const ptrdiff_t step = R * kTileColumns * L;
    NMK_STORE(0, sums, step);
    if constexpr (second_pixels) NMK_STORE(1, next_sums, step);
    if constexpr (second_outputs) NMK_STORE(2, sums + 16 * step, step);
    if constexpr (second_outputs && second_pixels) NMK_STORE(3, next_sums + 16 * step, step);
}

void conv_pairs(const TileJob& job) {
    Tiles tiles;
    const auto* tile = reinterpret_cast<const uint32_t*>(job.tile);
    const int vectors = job.rows * job.columns;
    const auto place = [&](int i, ptrdiff_t row) { return i / job.columns * row + i % job.columns * L; };
    for (int first = 0; first < job.outputs; first += 32) {
        fetch(*job.ahead, job.channels);
        const bool wide = job.outputs - first > 16;
        const uint32_t* weight = job.words + static_cast<ptrdiff_t>(first / 16) * job.tap_count * kTileWords;
        for (int i = 0; i < vectors; i += 2) {
            const bool two = i + 1 < vectors;
            const uint32_t* x = tile + place(i, job.row_step);
            const uint32_t* y = two ? tile + place(i + 1, job.row_step) : x;
            float* sums = job.partial + place(i, kTileColumns * L);
            float* next = two ? job.partial + place(i + 1, kTileColumns * L) : sums;
            const auto run = wide ? (two ? tile_sums<true, true> : tile_sums<true, false>)
                                  : (two ? tile_sums<false, true> : tile_sums<false, false>);
            run(job, weight, x, y, sums, next, tiles);
        }
        const int stop = job.outputs - first < 32 ? job.outputs - first : 32;
        for (int out = 0; out < stop; ++out) {
            for (int row = 0; row < job.rows; ++row) {
                finish_row(job.partial + (out * R + row) * kTileColumns * L, job, first + out, row);
            }
        }
    }
}

}  // namespace NMK_SPACE
}  // namespace nmk
