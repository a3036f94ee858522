// A convolution of a program: its weights prepared for one family of kernels, and how it is run.
#ifndef NMK_CONV_H
#define NMK_CONV_H

#include <cstdint>
#include <deque>
#include <vector>

#include "aligned.h"
#include "format.h"
#include "kernels.h"
#include "rows.h"

namespace nmk {

// An activation in memory, as strips (see kernels.h): all channels of a row, then the next row.
struct View {
    float* data = nullptr;
    int64_t channels = 0, height = 0, width = 0;
    int64_t strip = 0;  // S: positions of a row
    ptrdiff_t row = 0, plane = 0;  // floats from one row, or channel, to the next
    int64_t held = 1;  // rows in memory: row y takes the place of row y - held

    ptrdiff_t row_at(int64_t y) const { return (y < held ? y : y % held) * row; }
};

// A position along one axis of the packed tile, and the input that it holds, relative to the tile's
// first output times the stride, less the padding.
struct Line {
    int packed, input;
};

// Outputs that keep the same inputs, and how they are computed in pairs.
struct PairBlock {
    int first, outputs;
    std::vector<Pick> picks;  // empty where the tile serves as it is packed
    std::vector<uint32_t> offsets;
    ptrdiff_t pair_step;
    int64_t steps;  // of the kernel, see Part
    Aligned<uint32_t> words;
};

// The weights of one group of a convolution.
struct Part {
    std::vector<Tap> taps;
    std::vector<uint32_t> counts;
    std::vector<int> used;       // input channels that are read, be it to multiply them by zero
    std::vector<uint32_t> kept;  // and which of these every WG outputs do, `counts` of each
    int64_t steps = 0;  // of a tile's computation, between which the next tiles' inputs are fetched
    int input_blocks = 1;
    Aligned<float> weights;
    std::vector<PairBlock> blocks;
};

// How a convolution is computed: which kernel, and what its weights look like.
enum class Method { sparse, dense, winograd, pairs, halves };

struct Conv {
    int kernel_y, kernel_x, stride_y, stride_x, dilation_y, dilation_x;
    int pad_left, pad_right, pad_top, pad_bottom;
    int groups, inputs, outputs;  // channels of one group; outputs that are computed
    std::vector<int> places;      // of the outputs among all of the layer; empty: as they come
    std::vector<float> bias;      // of all of the layer's outputs; empty: as the layer has it
    int shuffle;                  // factor of the pixel shuffle in its store
    int block;                    // input channels whose packed tiles fit L1
    Method method;
    int tile_rows, tile_columns;  // outputs of a full tile; rows in parallel come in tiles
    std::vector<Part> parts;
    std::vector<uint32_t> tap_offsets;
    std::vector<Line> rows, columns;  // all that a full tile packs
    int pitch = 0;                    // vectors of a packed row
    ptrdiff_t tile_channel = 0;       // floats

    int packed_channels = 0;          // of a tile; Winograd's kernel packs none
    int pair_padding = 0;             // of those, zeros that fill a tile of AMX
    size_t most_picks = 0;

    size_t tile_floats() const {
        return static_cast<size_t>(tile_channel) * static_cast<size_t>(packed_channels);
    }
};

// Everything but the prepared weights; the record has been checked.
Conv make_conv(const OperationRecord& record, int inputs, int outputs,
               const std::vector<float>& weights, const Kernels& kernels);

// Prepares the weights [out][in/groups][kh][kw].
void set_weights(Conv& conv, const std::vector<float>& weights, const Kernels& kernels);

struct Lanes {
    alignas(kLine) uint32_t bits[16];
};

struct ColumnTile {
    int64_t first;
    int columns;
    std::vector<Run> runs;
};

// How a convolution cuts images of one size into tiles.
struct ConvPlan {
    std::vector<ColumnTile> tiles;
    std::deque<Lanes> lanes;  // masks and gather offsets that the runs point at
};

ConvPlan plan_conv(const Conv& conv, const Kernels& kernels, const View& input, View output);

struct ConvRun {
    const Conv* conv;
    const ConvPlan* plan;
    const Kernels* kernels;
    View input, output, residual;
    Epilogue epilogue;
};

// Computes a thread's share of output rows, in tiles; their first is a multiple of tile_rows * shuffle, their
// number of shuffle; `scratch` as conv_scratch says.
void run_conv(const ConvRun& run, Rows rows, float* scratch);

// Floats of scratch memory that one thread needs.
size_t conv_scratch(const Conv& conv, const Kernels& kernels);

}  // namespace nmk

#endif  // NMK_CONV_H
