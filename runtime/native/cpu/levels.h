// A convolution's weights and the least level that keeps each -> packings, and which of them a level runs.
//
// Every level has a packing of its own, in the method that is fastest for what it keeps: those that keep the
// same share one. Only the program's bytes are the same for all levels. Lists that are prefixes of longer ones
// were tried: they took 3 to 12 % longer, and sum in an order that gives other bits (README.md).
#ifndef NMK_LEVELS_H
#define NMK_LEVELS_H

#include <cstdint>
#include <vector>

#include "conv.h"

namespace nmk {

constexpr uint8_t kNever = 255;  // in place of the least level that keeps a weight
constexpr size_t kIdle = ~size_t{0};  // in place of a packing, where nobody reads what the layer gives

struct Packings {
    std::vector<Conv> convs;
    std::vector<size_t> served;  // of each level: its packing, or kIdle; empty where a tile would be too large
};

// A convolution as its bytes have it: weights [out][in/groups][kh][kw] and levels alike, kNever where a weight is 0.
struct Layer {
    int inputs, outputs;  // channels
    std::vector<float> weights;
    std::vector<uint8_t> levels;
};

// A convolution at a level: all its weights, zeros where it keeps none, and the bias if it is not the record's.
struct Folded {
    std::vector<float> weights, bias;
};

// `folded` of each level, see folds.h; `outputs` of each: those that are read, see unread.h.
Packings pack_levels(const OperationRecord& record, const Layer& layer, const std::vector<Folded>& folded,
                     const std::vector<std::vector<int>>& outputs, const Kernels& kernels);

}  // namespace nmk

#endif  // NMK_LEVELS_H
