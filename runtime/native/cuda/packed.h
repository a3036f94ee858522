// Packed bytes of one convolution (runtime/native/cuda_pack.py) -> a Layer in which every number was checked.
#ifndef NMK_CUDA_PACKED_H
#define NMK_CUDA_PACKED_H

#include <string>
#include <vector>

#include "params.h"

namespace nmk_cuda {

struct Level {
    Kind kind;
    int gathers;     // blocks of 16 gathered channels in a step
    int step_bytes;
    size_t offset;   // of the steps
};

struct Layer {
    bool brain;  // bfloat16
    int channels, rows;  // rows: outputs before the shuffle
    int kernel_height, kernel_width, stride;
    int pad_top, pad_left, pad_bottom, pad_right;
    Activation activation;
    float slope;
    Residual residual;
    int shuffle;
    int outputs;  // of a block of outputs: 64 or 16
    size_t bias;  // offset
    std::vector<Level> levels;

    int chunks() const { return (channels + kChunk - 1) / kChunk; }
    int row_blocks() const { return (rows + outputs - 1) / outputs; }
};

// False, and why, if the bytes are damaged or ask for what no kernel does.
bool read_layer(const unsigned char* bytes, size_t size, Layer& layer, std::string& problem);

}  // namespace nmk_cuda

#endif  // NMK_CUDA_PACKED_H
