// The interface of one family of kernels: raw pointers in and out, one table for each ISA.
//
// Activations are stored as strips: [row][channel][position][lane]. A row of W pixels is cut into
// L strips of S consecutive pixels, and lane l holds strip l: pixel x is lane x / S, position x % S.
// A step of one pixel in x is then a step of one whole vector. Lanes beyond W hold anything.
#ifndef NMK_KERNELS_H
#define NMK_KERNELS_H

#include <cstddef>
#include <cstdint>

#include "format.h"

namespace nmk {

constexpr int kTileRows = 2;     // rows of a tile
constexpr int kMostRows = 4;     // of a tile of any kernel
constexpr int kLargestFactor = 16;  // of what enlarges
constexpr int kTileColumns = 6;  // most positions of a tile: 12 accumulators, 12 independent FMAs
// Winograd's F(4x4, 3x3): blocks of 4 x 4 outputs from 6 x 6 inputs, and its points 0, +-near, +-far.
constexpr int kWinogradBlock = 4, kWinogradSide = 6, kWinogradBlocks = 3;
constexpr float kWinogradNear = 0.625f, kWinogradFar = 1.5f;
constexpr int kOutputBlock = 16; // output channels whose accumulators stay in L1 together
constexpr int kMostSums = 32;    // output channels of a tile's sums that a kernel keeps in memory

// One non-zero weight: its value (for kernels of halves two of it, as bits), and where its input stands in the
// packed tile (in floats).
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
    const int* used;  // the channels that are packed (pack), each at its own place, `used_count` of them
    int used_count;
    const Run* runs;
    int run_count;
    const ptrdiff_t* source_rows;  // floats from the channel's start; -1: a row of zeros
    const int* tile_rows;          // floats from the tile channel's start
    int row_count;
    int row_floats;                // length of a packed row
    int padding;                   // tile channels to zero behind the last (pack_pairs)
};

// Two kept input channels of a tile of pairs: where their words stand (in floats), and which halves.
struct Pick {
    uint32_t low, high;
    int32_t low_shift, high_shift;  // 0 or 16
};

struct RegroupJob {
    const float* tile;
    ptrdiff_t row_step;
    const Pick* picks;
    int count, columns;
    uint32_t* to;  // [count][kTileRows][kTileColumns] vectors
};

struct Epilogue {
    const float* bias;  // one an output channel, or null
    ActivationSpec activation;
    float alpha;
    int residual;  // Residual
};

// What the next tile will read, fetched into L2 meanwhile: pieces of `lines` cache lines, one for each
// of its rows and channels, so many at each step of a tile's computation.
struct Ahead {
    const float* const* rows;
    ptrdiff_t channel_step;
    int row_count, lines, pieces;
    int channel, row;  // of the next piece
};

// A convolution of one packed tile: kTileRows x `columns` positions, `outputs` channels.
struct TileJob {
    const float* tile;
    ptrdiff_t row_step;  // floats from one output row's inputs to the next one's, in the tile
    int columns;
    int rows;  // to store, at most those of a tile
    int outputs, channels;
    // sparse: taps in the order (block of outputs, block of inputs, output)
    const Tap* taps;
    const uint32_t* counts;
    int input_blocks;
    Ahead* ahead;
    float* partial;  // kOutputBlock x kTileRows x kTileColumns vectors
    // dense: weights [outputs / G][channels][taps][G], input channels taken `block` at a time
    int block;
    const float* weights;
    const uint32_t* tap_offsets;
    int tap_count;
    ptrdiff_t tile_channel;
    // pairs: tap_offsets of each of tap_count steps; words [outputs / G][steps][G], or tiles of 16 x 16
    // [outputs / 16][steps][16][16] and the floats from one pair of a step to the next
    const uint32_t* words;
    ptrdiff_t pair_step;
    const Epilogue* epilogue;
    int first;  // of these output channels, among all that the epilogue and output know
    const int* places;  // or where each of those is to be found there; null: where it comes
    float* output;
    int shuffle;  // factor of a pixel shuffle: its rows and positions lie that much closer
    ptrdiff_t output_channel, output_rows[kMostRows * kLargestFactor];  // floats to the next channel, to each row
    const float* residual;
    ptrdiff_t residual_channel, residual_rows[kMostRows];
};

// A tile of 4 rows and up to kWinogradBlocks blocks; its inputs are packed a channel at a time.
struct WinogradJob {
    PackJob pack;
    TileJob tile;        // weights [outputs / WG][36][counts of it][WG]; partial 4 x 12 vectors
    const int* used;     // the input channels that some output keeps
    int used_count;
    const uint32_t* kept;  // by WG outputs, as many as counts says: places in `used`
    float* spots;        // [36][used][blocks] vectors, spot_step floats from one to the next
    ptrdiff_t spot_step;
    float* products;     // [WG][blocks][36] vectors
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

constexpr int64_t kMomentsSummed = 128;  // vectors, about, whose lanes are summed in fp32

// A channel of an image: rows of `count` floats, under a mask of one row.
struct MomentsJob {
    const float* x;
    ptrdiff_t row_step, count;
    int64_t rows;
    const uint32_t* mask;
};

// How weights of pairs are laid out: not at all (no such kernel), by G outputs, or as tiles.
enum class PairLayout { none, groups, tiles };

struct Kernels {
    const char* name;
    int lanes;
    int dense_group;  // G: output channels that a dense kernel computes together
    int winograd_group;  // WG: the same of the Winograd kernel
    void (*pack)(const PackJob&);
    void (*conv_nm)(const TileJob&);
    void (*conv_dense)(const TileJob&);
    void (*conv_winograd)(const WinogradJob&);
    PairLayout pair_layout;
    void (*pack_pairs)(const PackJob&);
    void (*regroup)(const RegroupJob&);
    void (*conv_pairs)(const TileJob&);
    void (*pack_halves)(const PackJob&);  // null without kernels of halves
    void (*conv_halves)(const TileJob&);
    void (*pointwise)(const PointwiseJob&);
    // Sums of x - centre and of its square, added to what is there.
    void (*moments)(const MomentsJob&, float centre, double* sum, double* squares);
};

extern const Kernels kAmxKernels, kAvx512Fp16Kernels, kAvx512Bf16Kernels, kAvx512Kernels, kAvx2Kernels,
    kPortableKernels, kTilesKernels;

// The best that this processor can run and that neither `most` nor NMK_ISA excludes; null (and why)
// if NMK_ISA names what cannot run here. What `most` names may be absent: the next best is taken.
const Kernels* choose_kernels(Isa most, const char** why_not);

}  // namespace nmk

#endif  // NMK_KERNELS_H
