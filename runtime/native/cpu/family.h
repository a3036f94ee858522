// Vectors of one ISA -> its kernels: packing, sparse and dense tiles, pointwise, moments.
//
// Included once for each ISA, after NMK_LANES, NMK_SPACE, NMK_GROUP (outputs of a dense group) and
// NMK_POSITIONS (of a row of a tile that a dense group takes at once, as many as there are registers for).
#include "vectors.h"

namespace nmk {
namespace NMK_SPACE {

constexpr int R = kTileRows;
constexpr int G = NMK_GROUP;

inline Vec gathered(const float* row, const int32_t* offsets) {
    alignas(4 * L) float lanes[L];
    for (int lane = 0; lane < L; ++lane) lanes[lane] = offsets[lane] < 0 ? 0.0f : row[offsets[lane]];
    return load(lanes);
}

inline __attribute__((always_inline)) Vec one_run(const float* row, const Run& run, int v) {
    if (run.gather != nullptr) return gathered(row, run.gather);
    const float* from = row + run.source + v * L;
    return run.mask != nullptr ? masked(load_loose(from), run.mask) : load(from);
}

inline void pack_row(float* target, const float* row, const PackJob& job) {
    for (int i = 0; i < job.run_count; ++i) {
        const Run& run = job.runs[i];
        float* to = target + run.target * L;
        const float* from = row + run.source;
        if (run.gather != nullptr) {
            store(to, gathered(row, run.gather));
        } else if (run.mask != nullptr) {
            store(to, masked(load_loose(from), run.mask));
        } else {
            for (int v = 0; v < run.count; ++v) store(to + v * L, load(from + v * L));
        }
    }
}

// Copies what a tile needs of all its input channels side by side: offsets into it do not depend on
// the image's size, it is dense in L1 and L2, and padding, strides and strip edges end here.
void pack(const PackJob& job) {
    for (int i = 0; i < job.used_count; ++i) {
        const int channel = job.used[i];
        const float* source = job.source + channel * job.source_channel;
        float* tile = job.tile + channel * job.tile_channel;
        for (int row = 0; row < job.row_count; ++row) {
            float* target = tile + job.tile_rows[row];
            if (job.source_rows[row] < 0) {
                for (int at = 0; at < job.row_floats; at += L) store(target + at, Vec{});
            } else {
                pack_row(target, source + job.source_rows[row], job);
            }
        }
    }
}

// Sums of one output channel, still in L1 -> bias, activation and residual -> the output, shuffled.
inline void finish_row(const float* sums, const TileJob& job, int channel, int row) {
    const Epilogue& e = *job.epilogue;
    const int number = job.first + channel, own = job.places == nullptr ? number : job.places[number];
    const int factor = job.shuffle, phases = factor * factor;
    const int phase = own % phases;
    const Vec bias = spread(e.bias != nullptr ? e.bias[own] : 0.0f), alpha = spread(e.alpha);
    const float slope = e.activation.slopes != nullptr ? e.activation.slopes[own] : e.activation.a;
    float* output = job.output + own / phases * job.output_channel +
                    job.output_rows[row * factor + phase / factor] + phase % factor * L;
    const float* residual =
        job.residual == nullptr
            ? nullptr
            : job.residual + own * job.residual_channel + job.residual_rows[row];
    for (int p = 0; p < job.columns; ++p) {
        Vec v = load(sums + p * L) + bias;
        if (e.residual == static_cast<int>(Residual::before)) v += load(residual + p * L);
        v = activate(v, e.activation, slope) * alpha;
        if (e.residual == static_cast<int>(Residual::after)) v += load(residual + p * L);
        store(output + p * factor * L, v);
    }
}

// One output channel over one block of input channels: a broadcast and R * P FMAs a non-zero.
struct Taps {
    template <int P>
    static inline __attribute__((always_inline)) void add(float* partial, const float* tile,
                                                          ptrdiff_t row_step, const Tap* tap,
                                                          const Tap* end, bool fresh) {
        Vec sum[R * P];
#pragma GCC unroll 16
        for (int i = 0; i < R * P; ++i) sum[i] = fresh ? Vec{} : load(partial + i * L);
        for (; tap != end; ++tap) {
            const Vec weight = spread(tap->weight);
            const float* q = tile + tap->offset;
            const float* below = q + row_step;
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[p] += weight * load(q + p * L);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) sum[P + p] += weight * load(below + p * L);
        }
#pragma GCC unroll 16
        for (int i = 0; i < R * P; ++i) store(partial + i * L, sum[i]);
    }
};

// Asks for the next pieces of what the next tile reads; every step of a tile asks for a few.
inline void fetch(Ahead& ahead, int channels) {
    for (int i = 0; i < ahead.pieces && ahead.channel < channels; ++i) {
        const float* from = ahead.rows[ahead.row] + ahead.channel * ahead.channel_step;
        const char* line = reinterpret_cast<const char*>(from);
        for (int k = 0; k < ahead.lines; ++k) __builtin_prefetch(line + k * 64, 0, 2);
        if (++ahead.row == ahead.row_count) ahead.row = 0, ++ahead.channel;
    }
}

template <class Form, int P>
void nm_tile(const TileJob& job) {
    const Tap* tap = job.taps;
    const uint32_t* count = job.counts;
    for (int first = 0; first < job.outputs; first += kOutputBlock) {
        const int stop = first + kOutputBlock < job.outputs ? first + kOutputBlock : job.outputs;
        for (int block = 0; block < job.input_blocks; ++block) {
            float* partial = job.partial;
            for (int channel = first; channel < stop; ++channel, partial += R * P * L) {
                const Tap* end = tap + *count++;
                Form::template add<P>(partial, job.tile, job.row_step, tap, end, block == 0);
                tap = end;
                fetch(*job.ahead, job.channels);
            }
        }
        for (int channel = first; channel < stop; ++channel) {
            const float* sums = job.partial + (channel - first) * R * P * L;
            for (int row = 0; row < job.rows; ++row) finish_row(sums + row * P * L, job, channel, row);
        }
    }
}

// G output channels of `Count` of the P positions of a row over a block of input channels: Count loads
// and G broadcasts for G * Count FMAs.
template <int P, int Count>
inline __attribute__((always_inline)) void add_dense(float* partial, const TileJob& job,
                                                     const float* tile, const float* weight,
                                                     int channels, bool fresh) {
    Vec sum[G][Count];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int p = 0; p < Count; ++p) sum[g][p] = fresh ? Vec{} : load(partial + (g * P + p) * L);
    }
    for (int channel = 0; channel < channels; ++channel, tile += job.tile_channel) {
        for (int t = 0; t < job.tap_count; ++t, weight += G) {
            const float* q = tile + job.tap_offsets[t];
            Vec inputs[Count];
#pragma GCC unroll 8
            for (int p = 0; p < Count; ++p) inputs[p] = load(q + p * L);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
                for (int p = 0; p < Count; ++p) sum[g][p] += weight[g] * inputs[p];
            }
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
        for (int p = 0; p < Count; ++p) store(partial + (g * P + p) * L, sum[g][p]);
    }
}

// All P positions, in equal parts where registers do not suffice.
template <int P>
inline __attribute__((always_inline)) void add_dense_row(float* partial, const TileJob& job,
                                                         const float* tile, const float* weight,
                                                         int channels, bool fresh) {
    constexpr int parts = (P + NMK_POSITIONS - 1) / NMK_POSITIONS, wide = (P + parts - 1) / parts;
    constexpr int rest = P - wide * (parts - 1);
    for (int part = 1; part < parts; ++part, partial += wide * L, tile += wide * L) {
        add_dense<P, wide>(partial, job, tile, weight, channels, fresh);
    }
    add_dense<P, rest>(partial, job, tile, weight, channels, fresh);
}

template <int P>
void dense_tile(const TileJob& job) {
    const ptrdiff_t channel_weights = static_cast<ptrdiff_t>(job.tap_count) * G;
    for (int row = 0; row < job.rows; ++row) {
        for (int first = 0; first < job.outputs; first += kOutputBlock) {
            const int stop = first + kOutputBlock < job.outputs ? first + kOutputBlock : job.outputs;
            for (int in = 0; in < job.channels; in += job.block) {
                const int count = in + job.block < job.channels ? job.block : job.channels - in;
                const float* tile = job.tile + row * job.row_step + in * job.tile_channel;
                for (int out = first; out < stop; out += G) {
                    const float* weight =
                        job.weights + (out / G * static_cast<ptrdiff_t>(job.channels) + in) * channel_weights;
                    add_dense_row<P>(job.partial + (out - first) * P * L, job, tile, weight, count, in == 0);
                    fetch(*job.ahead, job.channels);
                }
            }
            for (int out = first; out < stop; ++out) {
                finish_row(job.partial + (out - first) * P * L, job, out, row);
            }
        }
    }
}

template <class Form>
void conv_taps(const TileJob& job) {
    static void (*const by_columns[])(const TileJob&) = {nm_tile<Form, 1>, nm_tile<Form, 2>, nm_tile<Form, 3>,
                                                         nm_tile<Form, 4>, nm_tile<Form, 5>, nm_tile<Form, 6>};
    by_columns[job.columns - 1](job);
}

void conv_nm(const TileJob& job) { conv_taps<Taps>(job); }

void conv_dense(const TileJob& job) {
    static void (*const by_columns[])(const TileJob&) = {dense_tile<1>, dense_tile<2>, dense_tile<3>,
                                                         dense_tile<4>, dense_tile<5>, dense_tile<6>};
    by_columns[job.columns - 1](job);
}

void pointwise(const PointwiseJob& job) {
    const bool product = job.mode == static_cast<int>(Pointwise::product);
    const bool quotient = job.mode == static_cast<int>(Pointwise::quotient);
    const bool sum = job.mode == static_cast<int>(Pointwise::sum);
    for (ptrdiff_t i = 0; i < job.count; i += L) {
        Vec v = load(job.x + i);
        if (product) {
            v *= load(job.z + i);
        } else if (quotient) {
            v = v / load(job.z + i);
        } else if (sum) {
            v = job.scale * v + job.shift * load(job.z + i);
        } else {
            v = job.scale * v + job.shift;
        }
        store(job.y + i, activate(v, job.activation, job.slope_of_channel));
    }
}

void moments(const MomentsJob& job, float centre, double* sum, double* squares) {
    // Lanes are added in fp32 that far, and then to what is summed in doubles.
    const int64_t together = kMomentsSummed * L / job.count + 1;
    for (int64_t first = 0; first < job.rows; first += together) {
        const int64_t stop = first + together < job.rows ? first + together : job.rows;
        Vec total{}, square{};
        for (int64_t y = first; y < stop; ++y) {
            const float* x = job.x + y * job.row_step;
            for (ptrdiff_t i = 0; i < job.count; i += L) {
                const Vec v = masked(load(x + i) - centre, job.mask + i);
                total += v;
                square += v * v;
            }
        }
        for (int lane = 0; lane < L; ++lane) {
            *sum += static_cast<double>(total[lane]);
            *squares += static_cast<double>(square[lane]);
        }
    }
}

}  // namespace NMK_SPACE
}  // namespace nmk
