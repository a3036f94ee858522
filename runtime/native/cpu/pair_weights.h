// Weights of a group -> blocks of outputs that keep the same inputs, as kernels of pairs read them.
#ifndef NMK_PAIR_WEIGHTS_H
#define NMK_PAIR_WEIGHTS_H

#include <vector>

#include "conv.h"

namespace nmk {

// Weights [out][in][taps]; zeros are left out where some block of outputs keeps none of a channel.
std::vector<PairBlock> pair_blocks(const Conv& conv, const float* weights, const Kernels& kernels);

}  // namespace nmk

#endif  // NMK_PAIR_WEIGHTS_H
