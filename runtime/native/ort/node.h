// A node's attributes (nmcompile/backends/nmconv.py) -> what both providers' kernels need of them.
#ifndef NMK_ORT_NODE_H
#define NMK_ORT_NODE_H

#include <array>

#include "api.h"

namespace nmk_ort {

// The output's sizes for an input's: ((size - lost) / stride + 1) * shuffle, channels as they are.
struct Sizes {
    int64_t channels, shuffle;
    std::array<int64_t, 2> stride, lost;  // of height and width

    int64_t of(int axis, int64_t size) const;
};

struct Node {
    explicit Node(const OrtKernelInfo* info);

    std::string name;
    std::string format;
    bool adds, routed, channels_last;
    Sizes sizes;
    std::vector<unsigned char> packed;

    // An error that names the layer.
    [[noreturn]] void fail(const std::string& what) const;
};

// The `sizes` attribute: channels, shuffle, strides of height and width, what both lose.
Sizes read_sizes(const std::vector<int64_t>& values);

// What one call is given, checked: types, ranks, channels, and that a residual has the output's shape.
struct Call {
    Call(const Node& node, OrtKernelContext* context, ONNXTensorElementDataType type, int64_t channels);

    const OrtValue *x = nullptr, *residual = nullptr, *level = nullptr;
    int64_t batch, height, width;  // of the input
    std::vector<int64_t> output;   // its shape
};

const void* data_of(const OrtValue* value);

}  // namespace nmk_ort

#endif  // NMK_ORT_NODE_H
