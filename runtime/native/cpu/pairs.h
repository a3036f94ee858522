// One ISA's vectors -> packed tiles of bf16: two input channels a 32-bit lane.
//
// A word holds channel 2i in its lower half and 2i + 1 in its upper one: what vdpbf16ps takes in a lane
// and a tile in a column. Tiles, strips and epilogues stay as in fp32. Included after family.h.

namespace nmk {
namespace NMK_SPACE {

using Word = uint32_t __attribute__((vector_size(4 * L)));

inline __attribute__((always_inline)) Word load_words(const uint32_t* p) {
    return *reinterpret_cast<const Word*>(p);
}

#ifdef NMK_BF16

inline __attribute__((always_inline)) Word paired(Vec low, Vec high) {
    const __m512i order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
        18, 2, 17, 1, 16, 0);
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (Word)_mm512_permutexvar_epi16(order, (__m512i)both);
}

#else

// To nearest, ties to even; a NaN stays one.
inline __attribute__((always_inline)) Word rounded(Vec v) {
    const Word bits = reinterpret_cast<Word>(v);
    const Word near = bits + 0x7fffu + (bits >> 16 & 1u);
    return v == v ? near : (bits | 0x400000u);
}

inline __attribute__((always_inline)) Word paired(Vec low, Vec high) {
    return rounded(low) >> 16 | (rounded(high) & 0xffff0000u);
}

#endif

// As pack, two source channels to one of the tile; the last may lack its second.
void pack_pairs(const PackJob& job) {
    const int pairs = (job.channels + 1) / 2;
    const ptrdiff_t padding = job.padding * job.tile_channel;
    std::memset(job.tile + pairs * job.tile_channel, 0, static_cast<size_t>(padding) * sizeof(float));
    for (int pair = 0; pair < pairs; ++pair) {
        const float* low = job.source + 2 * pair * job.source_channel;
        const bool both = 2 * pair + 1 < job.channels;
        const float* high = low + (both ? job.source_channel : 0);
        for (int i = 0; i < job.row_count; ++i) {
            auto* to = reinterpret_cast<uint32_t*>(job.tile + pair * job.tile_channel + job.tile_rows[i]);
            const ptrdiff_t row = job.source_rows[i];
            if (row < 0) {
                for (int at = 0; at < job.row_floats; at += L) *reinterpret_cast<Word*>(to + at) = Word{};
                continue;
            }
            for (int r = 0; r < job.run_count; ++r) {
                const Run& run = job.runs[r];
                for (int v = 0; v < run.count; ++v) {
                    const Vec first = one_run(low + row, run, v);
                    const Vec second = both ? one_run(high + row, run, v) : Vec{};
                    *reinterpret_cast<Word*>(to + (run.target + v) * L) = paired(first, second);
                }
            }
        }
    }
}

// Kept channels, any two of them, side by side: a tile that only some outputs read.
void regroup(const RegroupJob& job) {
    uint32_t* to = job.to;
    for (int i = 0; i < job.count; ++i) {
        const Pick& pick = job.picks[i];
        const auto* low = reinterpret_cast<const uint32_t*>(job.tile) + pick.low;
        const auto* high = reinterpret_cast<const uint32_t*>(job.tile) + pick.high;
        for (int row = 0; row < R; ++row, low += job.row_step, high += job.row_step) {
            for (int p = 0; p < job.columns; ++p) {
                const Word a = load_words(low + p * L) >> pick.low_shift & 0xffffu;
                const Word b = load_words(high + p * L) >> pick.high_shift << 16;
                *reinterpret_cast<Word*>(to + (row * kTileColumns + p) * L) = a | b;
            }
        }
        to += R * kTileColumns * L;
    }
}

}  // namespace NMK_SPACE
}  // namespace nmk
