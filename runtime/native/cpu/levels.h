// A convolution's weights and the least level that keeps each -> packings, and which of them a level runs.
//
// Every level takes the method that is fastest for its own weights. Levels side by side of one method share
// a packing where a lower one's data can be the first part of each list of a higher one's. The last level
// has a packing of its own, in the order of a program without levels, so that it computes the same bits.
#ifndef NMK_LEVELS_H
#define NMK_LEVELS_H

#include <cstdint>
#include <vector>

#include "conv.h"

namespace nmk {

// How a level is run: a packing, and which of the packing's own levels that is.
struct Served {
    size_t conv;
    int level;
};

struct Packings {
    std::vector<Conv> convs;  // the last level's first; none where a tile would be too large
    std::vector<Served> served;  // one a level
};

struct ConvShape {
    const OperationRecord& record;
    int inputs, outputs;  // channels
};

// Weights [out][in/groups][kh][kw] and levels alike, kNever where a weight is 0.
Packings pack_levels(const ConvShape& shape, const std::vector<float>& weights,
                     const std::vector<uint8_t>& levels, int count, const Kernels& kernels);

}  // namespace nmk

#endif  // NMK_LEVELS_H
