// The interface of one family of kernels: raw pointers in and out, one table for each ISA.
//
// Activations are stored as strips: [row][channel][position][lane]. A row of W pixels is cut into
// L strips of S consecutive pixels, and lane l holds strip l: pixel x is lane x / S, position x % S.
// A step of one pixel in x is then a step of one whole vector. Lanes beyond W hold anything.
#ifndef NMK_KERNELS_H
#define NMK_KERNELS_H

#include <cstddef>
#include <cstdint>

namespace nmk {

constexpr int kTileRows = 2;     // rows of a tile
constexpr int kTileColumns = 6;  // most positions of a tile: 12 accumulators, 12 independent FMAs
constexpr int kOutputBlock = 16; // output channels whose accumulators stay in L1 together

// One non-zero weight: its value, and where its input stands in the packed tile (in floats).
struct Tap {
    uint32_t offset;
    float weight;
};

struct ActivationSpec {
    uint32_t kind;
    float a, b;           // slope; or lowest and highest
    const float* slopes;  // one a channel (PReLU), or null
};

// A piece of a packed row: `count` vectors in a row, from source + offset.
struct Run {
    int target;             // vectors from the start of the packed row
    int count;
    ptrdiff_t source;       // floats from the start of the source row
    const uint32_t* mask;   // all ones or zeros, L a vector; null if every lane is valid
    const int32_t* gather;  // L source offsets (-1: zero) for a vector; null where lanes line up
};

struct PackJob {
    float* tile;
    const float* source;
    ptrdiff_t source_channel, tile_channel;  // floats between channels
    int channels;
    const Run* runs;
    int run_count;
    const ptrdiff_t* source_rows;  // floats from the channel's start; -1: a row of zeros
    const int* tile_rows;          // floats from the tile channel's start
    int row_count;
    int row_floats;                // length of a packed row
};

struct Epilogue {
    const float* bias;  // one an output channel, or null
    ActivationSpec activation;
    float alpha;
    int residual;  // Residual
};

// A convolution of one packed tile: kTileRows x `columns` positions, `outputs` channels.
struct TileJob {
    const float* tile;
    ptrdiff_t row_step;  // floats from one output row's inputs to the next one's, in the tile
    int columns;
    int rows;  // 1 or 2 rows to store
    int outputs, channels;
    // sparse: taps in the order (block of outputs, block of inputs, output)
    const Tap* taps;
    const uint32_t* counts;
    int input_blocks;
    // What the next tile will read, fetched into L2 meanwhile: pieces of `ahead_lines` cache lines,
    // one for each of its rows and channels, so many after each output's sums over a block.
    const float* const* ahead;
    int ahead_rows, ahead_lines, ahead_pieces;
    ptrdiff_t ahead_channel;
    float* partial;  // kOutputBlock x kTileRows x kTileColumns vectors
    // dense: weights [outputs / G][channels][taps][G], input channels taken `block` at a time
    int block;
    const float* weights;
    const uint32_t* tap_offsets;
    int tap_count;
    ptrdiff_t tile_channel;
    const Epilogue* epilogue;
    float* output;
    ptrdiff_t output_channel, output_row;
    const float* residual;
    ptrdiff_t residual_channel, residual_row;
};

struct PointwiseJob {
    int mode;  // Pointwise
    const float* x;
    const float* z;
    float* y;
    ptrdiff_t count;  // floats, a multiple of L
    float scale, shift;
    ActivationSpec activation;
    float slope_of_channel;
};

struct Kernels {
    const char* name;
    int lanes;
    int dense_group;  // G: output channels that a dense kernel computes together
    void (*pack)(const PackJob&);
    void (*conv_nm)(const TileJob&);
    void (*conv_dense)(const TileJob&);
    void (*pointwise)(const PointwiseJob&);
    // Sums of x and of (x - centre)^2 over rows of `count` floats, under a mask of one row.
    void (*moments)(const float* x, const uint32_t* mask, ptrdiff_t count, float centre, double* sum,
                    double* squares);
};

extern const Kernels kAvx512Kernels, kAvx2Kernels, kPortableKernels;

// The best this processor can run, or what NMK_ISA names; null (and why) if that is impossible.
const Kernels* choose_kernels(const char** why_not);

}  // namespace nmk

#endif  // NMK_KERNELS_H
