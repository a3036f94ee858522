// One ISA's vectors -> its Winograd kernel: F(4x4, 3x3), 36 products for 144, no lane ever crossed.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016. The points are 0, +-5/8,
// +-3/2 and infinity: of those tried they lose least, 1.4e-6 of the largest output at 64 channels where
// the direct sum loses 5e-7 and the paper's 0, +-1, +-2 lose 4.4e-6. Included after family.h.
namespace nmk {
namespace NMK_SPACE {

constexpr int WG = NMK_WINOGRAD_GROUP;
constexpr int kSide = kWinogradSide, kSpots = kSide * kSide;

// B^T d of six vectors, in their place.
inline __attribute__((always_inline)) void spread_six(Vec* d) {
    constexpr float a = kWinogradNear, b = kWinogradFar, aa = a * a, bb = b * b;
    const Vec near_even = d[4] - bb * d[2], near_odd = d[3] - bb * d[1];
    const Vec far_even = d[4] - aa * d[2], far_odd = d[3] - aa * d[1];
    d[0] = (aa * bb) * d[0] - ((aa + bb) * d[2] - d[4]);
    d[5] = (aa * bb) * d[1] - ((aa + bb) * d[3] - d[5]);
    d[1] = near_even + a * near_odd;
    d[2] = near_even - a * near_odd;
    d[3] = far_even + b * far_odd;
    d[4] = far_even - b * far_odd;
}

// A^T m of six vectors, `step` floats apart.
inline __attribute__((always_inline)) void gather_six(const float* m, ptrdiff_t step, Vec* out) {
    constexpr float a = kWinogradNear, b = kWinogradFar;
    const Vec m1 = load(m + step), m2 = load(m + 2 * step), m3 = load(m + 3 * step),
              m4 = load(m + 4 * step);
    const Vec near_sum = m1 + m2, near_gap = m1 - m2, far_sum = m3 + m4, far_gap = m3 - m4;
    out[0] = load(m) + near_sum + far_sum;
    out[1] = a * near_gap + b * far_gap;
    out[2] = (a * a) * near_sum + (b * b) * far_sum;
    out[3] = (a * a * a) * near_gap + (b * b * b) * far_gap + load(m + 5 * step);
}

// A column of six rows (null: zeros), read as `read` says -> the same column of B^T d.
template <int Columns, class Read>
inline __attribute__((always_inline)) void spread_column(float* to, const float* const* rows, Read read) {
    Vec six[kSide];
#pragma GCC unroll 6
    for (int u = 0; u < kSide; ++u) six[u] = rows[u] == nullptr ? Vec{} : read(rows[u]);
    spread_six(six);
#pragma GCC unroll 6
    for (int u = 0; u < kSide; ++u) store(to + u * Columns * L, six[u]);
}

// A channel -> its 36 vectors a block, in [spot][used input][block].
template <int P>
inline void winograd_input(const WinogradJob& job, int place) {
    constexpr int columns = 4 * P + 2;
    alignas(4 * L) float upright[kSide * columns * L];
    const float* source = job.pack.source + job.used[place] * job.pack.source_channel;
    const float* rows[kSide];
    for (int u = 0; u < kSide; ++u) {
        rows[u] = job.pack.source_rows[u] < 0 ? nullptr : source + job.pack.source_rows[u];
    }
    for (int i = 0; i < job.pack.run_count; ++i) {
        const Run& run = job.pack.runs[i];
        float* to = upright + run.target * L;
        if (run.gather != nullptr) {
            spread_column<columns>(to, rows, [&](const float* row) { return gathered(row, run.gather); });
        } else if (run.mask != nullptr) {
            spread_column<columns>(
                to, rows, [&](const float* row) { return masked(load_loose(row + run.source), run.mask); });
        } else {
            for (int v = 0; v < run.count; ++v, to += L) {
                const ptrdiff_t at = run.source + v * L;
                spread_column<columns>(to, rows, [&](const float* row) { return load(row + at); });
            }
        }
    }
    float* to = job.spots + static_cast<ptrdiff_t>(place) * P * L;
    for (int u = 0; u < kSide; ++u) {
        for (int p = 0; p < P; ++p) {
            Vec six[kSide];
            for (int v = 0; v < kSide; ++v) six[v] = load(upright + (u * columns + 4 * p + v) * L);
            spread_six(six);
            for (int v = 0; v < kSide; ++v) store(to + (u * kSide + v) * job.spot_step + p * L, six[v]);
        }
    }
}

// WG outputs: at each spot a product of matrices, weights [spot][kept input][WG].
template <int P>
inline void winograd_products(const WinogradJob& job, const uint32_t* kept, int count,
                              const float* weight) {
    for (int spot = 0; spot < kSpots; ++spot) {
        Vec sum[WG][P];
#pragma GCC unroll 8
        for (int g = 0; g < WG; ++g) {
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) sum[g][p] = Vec{};
        }
        const float* x = job.spots + spot * job.spot_step;
        for (int i = 0; i < count; ++i, weight += WG) {
            const float* from = x + static_cast<size_t>(kept[i]) * (P * L);
            Vec inputs[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) inputs[p] = load(from + p * L);
#pragma GCC unroll 8
            for (int g = 0; g < WG; ++g) {
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p) sum[g][p] += weight[g] * inputs[p];
            }
        }
        float* to = job.products + static_cast<ptrdiff_t>(spot) * L;
#pragma GCC unroll 8
        for (int g = 0; g < WG; ++g) {
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p) store(to + (g * P + p) * kSpots * L, sum[g][p]);
        }
        fetch(*job.tile.ahead, job.tile.channels);
    }
}

// The 36 vectors of one block -> 4 x 4 outputs, in rows of 4 P positions.
template <int P>
inline void winograd_output(const float* products, float* sums) {
    alignas(4 * L) float upright[4 * kSide * L];
    Vec four[4];
    for (int v = 0; v < kSide; ++v) {
        gather_six(products + v * L, kSide * L, four);
        for (int y = 0; y < 4; ++y) store(upright + (y * kSide + v) * L, four[y]);
    }
    for (int y = 0; y < 4; ++y) {
        gather_six(upright + y * kSide * L, L, four);
        for (int x = 0; x < 4; ++x) store(sums + (y * 4 * P + x) * L, four[x]);
    }
}

template <int P>
void winograd_tile(const WinogradJob& job) {
    for (int i = 0; i < job.used_count; ++i) winograd_input<P>(job, i);
    const uint32_t *kept = job.kept, *kept_count = job.tile.counts;
    const float* weights = job.tile.weights;
    for (int first = 0; first < job.tile.outputs; first += WG, ++kept_count) {
        const auto inputs = static_cast<int>(*kept_count);
        winograd_products<P>(job, kept, inputs, weights);
        kept += inputs, weights += kSpots * inputs * WG;
        const int count = job.tile.outputs - first < WG ? job.tile.outputs - first : WG;
        for (int g = 0; g < count; ++g) {
            for (int p = 0; p < P; ++p) {
                winograd_output<P>(job.products + (g * P + p) * kSpots * L,
                                   job.tile.partial + 4 * p * L);
            }
            for (int row = 0; row < job.tile.rows; ++row) {
                finish_row(job.tile.partial + row * 4 * P * L, job.tile, first + g, row);
            }
        }
    }
}

void conv_winograd(const WinogradJob& job) {
    static void (*const by_blocks[])(const WinogradJob&) = {winograd_tile<1>, winograd_tile<2>,
                                                            winograd_tile<3>};
    by_blocks[(job.tile.columns + 3) / 4 - 1](job);
}

}  // namespace NMK_SPACE
}  // namespace nmk
