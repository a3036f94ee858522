// What one launch needs to know -> the kernels' only argument, made by launch.cu and read by conv.cuh.
#ifndef NMK_CUDA_PARAMS_H
#define NMK_CUDA_PARAMS_H

#include <cstddef>
#include <cstdint>

namespace nmk_cuda {

// How a step's weights multiply: Kind in runtime/native/cuda_pack.py.
enum class Kind : uint32_t {
    kDense = 0,     // every weight, mma m16n8k16
    kSparse = 1,    // at most 2 of 4 channels, mma.sp m16n8k32
    kGathered = 2,  // channels that a block of outputs shares, brought side by side for mma m16n8k16
};

enum class Activation : uint32_t { kNone = 0, kRelu = 1, kLeakyRelu = 2 };
enum class Residual : uint32_t { kNone = 0, kBeforeActivation = 1, kAfterActivation = 2 };

constexpr int kChunk = 64;             // input channels that a step multiplies, at one kernel position
constexpr int kPixelBytes = 2 * kChunk;  // a pixel's chunk in shared memory
constexpr int kVector = 8;             // halves in 16 bytes
constexpr int kVectorBytes = 16;
constexpr int kTileColumns = 16;       // pixels of a tile's row: two mma tiles of 8
constexpr int kFragmentBytes = 512;    // 16x16 halves of weights in the order of registers
constexpr int kMetadataBytes = 128;    // of 16 rows and a chunk: one word a lane
constexpr int kMostGathers = 4;        // blocks of 16 gathered channels in a step
constexpr int kGatherBytes = 16;       // where a block's channels are: one byte each

// Bytes of the weights that a step reads, for 16 * m_tiles outputs: cuda_pack.py writes them so.
constexpr int step_bytes(Kind kind, int m_tiles, int gathers) {
    if (kind == Kind::kSparse) return m_tiles * (2 * kFragmentBytes + kMetadataBytes);
    if (kind == Kind::kDense) return m_tiles * 4 * kFragmentBytes;
    return gathers * (m_tiles * kFragmentBytes + kGatherBytes);
}

struct Weights {
    const unsigned char* steps;  // [block of outputs][chunk][kernel position][step_bytes]
    const float* bias;           // one for each row
    int bytes;                   // of a step
    int gathers;
    Activation activation;
    float slope;
};

struct Params {
    const uint16_t* input;     // [batch][height][width][channels]
    const uint16_t* residual;  // of the output's shape
    uint16_t* output;          // [batch][out_height * shuffle][out_width * shuffle][rows / shuffle^2]
    const int* level_chosen;   // on the device; null where the host has chosen
    Weights weights, second;   // `second` in a fused block alone
    int level;
    int height, width, channels;
    int out_height, out_width, rows;  // before the shuffle; rows are output channels, in the packed order
    int kernel_height, kernel_width, pad_top, pad_left;
    int chunks, row_blocks, tiles_y, tiles_x;
    int items;  // tiles of all images, for every block of outputs
    Residual residual_place;
    int shuffle;
};

}  // namespace nmk_cuda

#endif  // NMK_CUDA_PARAMS_H
