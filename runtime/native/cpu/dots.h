// vdpbf16ps -> the bf16 kernel: a dot product of two channels takes the place of an FMA.
//
// Included after pairs.h.

namespace nmk {
namespace NMK_SPACE {

// G output channels of one row of the tile: P loads and G broadcasts for G * P dot products of two.
template <int P>
inline __attribute__((always_inline)) void add_pairs(float* partial, const TileJob& job,
                                                     const uint32_t* tile, const uint32_t* weight) {
    Vec sum[G][P];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) sum[g][p] = Vec{};
    }
    for (int i = 0; i < job.tap_count; ++i, weight += G) {
        const uint32_t* q = tile + job.tap_offsets[i];
        Word words[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) words[g] = weight[g] - Word{};
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) {
            const Word x = load_words(q + p * L);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
                sum[g][p] = (Vec)_mm512_dpbf16_ps((__m512)sum[g][p], (__m512bh)words[g], (__m512bh)x);
            }
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) store(partial + (g * P + p) * L, sum[g][p]);
    }
}

template <int P>
void pairs_tile(const TileJob& job) {
    const auto* tile = reinterpret_cast<const uint32_t*>(job.tile);
    for (int row = 0; row < job.rows; ++row, tile += job.row_step) {
        for (int first = 0; first < job.outputs; first += G) {
            add_pairs<P>(job.partial, job, tile, job.words + static_cast<ptrdiff_t>(first) * job.tap_count);
            fetch(*job.ahead, job.channels);
            const int count = job.outputs - first < G ? job.outputs - first : G;
            for (int g = 0; g < count; ++g) finish_row(job.partial + g * P * L, job, first + g, row);
        }
    }
}

void conv_pairs(const TileJob& job) {
    static void (*const by_columns[])(const TileJob&) = {pairs_tile<1>, pairs_tile<2>, pairs_tile<3>,
                                                         pairs_tile<4>, pairs_tile<5>, pairs_tile<6>};
    by_columns[job.columns - 1](job);
}

}  // namespace NMK_SPACE
}  // namespace nmk
