// A convolution's record and weights -> what a tile packs, and weights in the order kernels read.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "conv.h"
#include "method.h"
#include "pair_weights.h"
#include "winograd_weights.h"

namespace nmk {

namespace {

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// The lines of one axis that some output of a tile of `size` reads. Inputs of one stride phase lie
// side by side, so that a step of one output is a step of one packed line whatever the stride.
std::vector<Line> used_lines(int kernel, int stride, int dilation, int size, int phase_length) {
    std::vector<bool> used(static_cast<size_t>(stride * phase_length));
    for (int k = 0; k < kernel; ++k) {
        const int phase = k * dilation % stride, step = k * dilation / stride;
        for (int i = 0; i < size; ++i) used[static_cast<size_t>(phase * phase_length + step + i)] = true;
    }
    std::vector<Line> lines;
    for (int packed = 0; packed < stride * phase_length; ++packed) {
        const int phase = packed / phase_length, step = packed % phase_length;
        if (used[static_cast<size_t>(packed)]) lines.push_back({packed, step * stride + phase});
    }
    return lines;
}

int phase_length(int kernel, int stride, int dilation, int size) {
    return size + (kernel - 1) * dilation / stride;
}

long cache_size(int name, long otherwise) {
    const long reported = sysconf(name);
    return reported > 0 ? reported : otherwise;
}

// Winograd's transformed inputs of a tile are read once for every WG outputs: they must stay in L2.
void set_tile(Conv& conv, const Kernels& kernels) {
    static const long level2 = cache_size(_SC_LEVEL2_CACHE_SIZE, 262144);
    conv.tile_rows = kTileRows, conv.tile_columns = kTileColumns;
    conv.packed_channels = conv.inputs;
    if (conv.method == Method::pairs) {
        const int pairs = (conv.inputs + 1) / 2;
        conv.pair_padding = kernels.pair_layout == PairLayout::tiles ? -pairs & 15 : 0;
        conv.packed_channels = pairs + conv.pair_padding;
    }
    if (conv.method != Method::winograd) return;
    conv.packed_channels = 0;
    const long block = static_cast<long>(kWinogradSide * kWinogradSide * conv.inputs * kernels.lanes) * 4;
    const auto blocks = static_cast<int>(std::clamp<long>(level2 / 2 / block, 1, kWinogradBlocks));
    conv.tile_rows = kWinogradBlock, conv.tile_columns = blocks * kWinogradBlock;
}

// Input channels whose packed tiles fill the cache that a kernel streams them from.
//
// L1 for sparse kernels, which load as much as they compute. Measured on Zen 4: half of L1 (more
// blocks, so more accumulators loaded and stored) is 5 to 10 % slower, twice L1 10 to 15 %. Dense
// kernels of 16 lanes, which reuse each load four times and take six positions at once, gain 3 % from
// larger blocks in L2; those of 8 lanes, three positions at once, lose 8 % by them (384 -> 64, Zen 3).
int block_of(const Conv& conv, const Kernels& kernels) {
    static const long level1 = cache_size(_SC_LEVEL1_DCACHE_SIZE, 32768);
    static const long level2 = cache_size(_SC_LEVEL2_CACHE_SIZE, 262144);
    const bool reuses = conv.method == Method::dense && kernels.lanes >= 16;
    const size_t channel =
        conv.rows.size() * conv.columns.size() * static_cast<size_t>(kernels.lanes) * sizeof(float);
    const long fitting = (reuses ? level2 / 2 : level1) / static_cast<long>(channel);
    return static_cast<int>(std::clamp<long>(fitting, 1, conv.inputs));
}

// A weight as the nearest half (ties to even), twice in a word, as kernels of halves spread it.
float half_twice(float value) {
    const float size = std::fabs(value);
    uint32_t half = size >= 65520.0f ? 0x7c00u : 0x7e00u;
    if (size < 65520.0f) {
        int exponent = -13;
        if (size >= 0x1p-14f) std::frexp(size, &exponent);
        // The fraction's leading bit adds one to the exponent of normal numbers, and none to others.
        const auto fraction = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 11 - exponent)));
        half = static_cast<uint32_t>(exponent + 13) * 1024u + fraction;
    }
    const uint32_t word = (half | (std::signbit(value) ? 0x8000u : 0u)) * 0x10001u;
    float found;
    std::memcpy(&found, &word, sizeof found);
    return found;
}

void set_sparse(const Conv& conv, Part& part, const float* weights, int block) {
    const bool halves = conv.method == Method::halves;
    const int taps = conv.kernel_y * conv.kernel_x;
    part.input_blocks = (conv.inputs + block - 1) / block;
    for (int first = 0; first < conv.outputs; first += kOutputBlock) {
        const int stop = std::min(first + kOutputBlock, conv.outputs);
        for (int start = 0; start < conv.inputs; start += block) {
            for (int out = first; out < stop; ++out) {
                const size_t before = part.taps.size();
                for (int in = start; in < std::min(start + block, conv.inputs); ++in) {
                    const float* w = weights + (static_cast<ptrdiff_t>(out) * conv.inputs + in) * taps;
                    for (int t = 0; t < taps; ++t) {
                        const auto at = static_cast<uint32_t>(in * conv.tile_channel);
                        if (w[t] != 0.0f) {
                            const float weight = halves ? half_twice(w[t]) : w[t];
                            part.taps.push_back({at + conv.tap_offsets[static_cast<size_t>(t)], weight});
                        }
                    }
                }
                part.counts.push_back(static_cast<uint32_t>(part.taps.size() - before));
            }
        }
    }
}

void set_dense(const Conv& conv, Part& part, const float* weights, int group) {
    const int reduced = conv.inputs * conv.kernel_y * conv.kernel_x;
    part.weights = aligned<float>(static_cast<size_t>(round_up(conv.outputs, group)) *
                                  static_cast<size_t>(reduced));
    for (int out = 0; out < conv.outputs; ++out) {
        float* to = part.weights.get() + static_cast<ptrdiff_t>(out / group) * reduced * group;
        for (int i = 0; i < reduced; ++i) {
            to[i * group + out % group] = weights[static_cast<ptrdiff_t>(out) * reduced + i];
        }
    }
}

int64_t steps(const Conv& conv, const Part& part, const Kernels& kernels) {
    const auto groups = [](int outputs, int group) { return int64_t{(outputs + group - 1) / group}; };
    switch (conv.method) {
        case Method::halves:
        case Method::sparse: return static_cast<int64_t>(part.counts.size());
        case Method::winograd:
            return groups(conv.outputs, kernels.winograd_group) * kWinogradSide * kWinogradSide;
        case Method::dense:
            return groups(conv.outputs, kernels.dense_group) * groups(conv.inputs, conv.block) * kTileRows;
        case Method::pairs: break;
    }
    int64_t sum = 0;
    for (const PairBlock& block : part.blocks) sum += block.steps;
    return sum;
}

// The inputs that are read: those with a weight, and, where zeros are multiplied too, all.
std::vector<int> inputs_read(const Conv& conv, const Part& part, const float* weights) {
    const auto whole = [](const PairBlock& block) { return block.picks.empty(); };
    const bool all = conv.method == Method::dense ||
                     std::any_of(part.blocks.begin(), part.blocks.end(), whole);
    const auto taps = static_cast<ptrdiff_t>(conv.tap_offsets.size());
    std::vector<int> read;
    for (int in = 0; in < conv.inputs; ++in) {
        bool any = all;
        for (int out = 0; out < conv.outputs && !any; ++out) {
            const float* w = weights + (static_cast<ptrdiff_t>(out) * conv.inputs + in) * taps;
            any = std::any_of(w, w + taps, [](float value) { return value != 0.0f; });
        }
        if (any) read.push_back(in);
    }
    return read;
}

}  // namespace

Conv make_conv(const OperationRecord& record, int inputs, int outputs,
               const std::vector<float>& weights, const Kernels& kernels) {
    const int32_t* p = record.params;
    Conv conv{};
    conv.kernel_y = p[kKernelY], conv.kernel_x = p[kKernelX];
    conv.stride_y = p[kStrideY], conv.stride_x = p[kStrideX];
    conv.dilation_y = p[kDilationY], conv.dilation_x = p[kDilationX];
    conv.pad_left = p[kPadLeft], conv.pad_right = p[kPadRight];
    conv.pad_top = p[kPadTop], conv.pad_bottom = p[kPadBottom];
    conv.groups = p[kGroups], conv.inputs = inputs / conv.groups, conv.outputs = outputs / conv.groups;
    conv.shuffle = static_cast<int>(record.shuffle);
    const auto precision = static_cast<Precision>(p[kPrecision]);
    conv.method = best_method(conv, static_cast<Family>(p[kFamily]), precision, weights, kernels);
    set_tile(conv, kernels);

    const int tall = phase_length(conv.kernel_y, conv.stride_y, conv.dilation_y, conv.tile_rows);
    const int wide = phase_length(conv.kernel_x, conv.stride_x, conv.dilation_x, conv.tile_columns);
    conv.rows = used_lines(conv.kernel_y, conv.stride_y, conv.dilation_y, conv.tile_rows, tall);
    conv.columns = used_lines(conv.kernel_x, conv.stride_x, conv.dilation_x, conv.tile_columns, wide);
    conv.pitch = conv.stride_x * wide;
    conv.tile_channel = static_cast<ptrdiff_t>(conv.stride_y * tall) * conv.pitch * kernels.lanes;
    for (int y = 0; y < conv.kernel_y; ++y) {
        for (int x = 0; x < conv.kernel_x; ++x) {
            const int dy = y * conv.dilation_y, dx = x * conv.dilation_x;
            const int row = dy % conv.stride_y * tall + dy / conv.stride_y;
            const int column = dx % conv.stride_x * wide + dx / conv.stride_x;
            conv.tap_offsets.push_back(
                static_cast<uint32_t>((row * conv.pitch + column) * kernels.lanes));
        }
    }
    conv.block = block_of(conv, kernels);
    return conv;
}

void set_weights(Conv& conv, const std::vector<float>& weights, const Kernels& kernels) {
    const ptrdiff_t size = static_cast<ptrdiff_t>(conv.outputs) * conv.inputs *
                           static_cast<ptrdiff_t>(conv.tap_offsets.size());
    for (int group = 0; group < conv.groups; ++group) {
        Part part;
        const float* own = weights.data() + group * size;
        switch (conv.method) {
            case Method::halves:
            case Method::sparse: set_sparse(conv, part, own, conv.block); break;
            case Method::dense: set_dense(conv, part, own, kernels.dense_group); break;
            case Method::pairs: part.blocks = pair_blocks(conv, own, kernels); break;
            case Method::winograd: set_winograd(conv, part, own, kernels.winograd_group); break;
        }
        if (conv.method != Method::winograd) part.used = inputs_read(conv, part, own);
        part.steps = steps(conv, part, kernels);
        for (const PairBlock& block : part.blocks) {
            conv.most_picks = std::max(conv.most_picks, block.picks.size());
        }
        conv.parts.push_back(std::move(part));
    }
}

}  // namespace nmk
