// Weights of a convolution -> which inputs they keep, and the order in which Winograd's kernel reads them.
#ifndef NMK_WINOGRAD_WEIGHTS_H
#define NMK_WINOGRAD_WEIGHTS_H

#include <vector>

#include "conv.h"

namespace nmk {

// For every `group` outputs the inputs of which any of them keeps a weight, ascending.
std::vector<std::vector<int>> kept_inputs(const Conv& conv, const float* weights, int group);

// Weights [out][in][3][3] of one group -> the part's used, kept, counts, and G g G^T of each kept one.
void set_winograd(const Conv& conv, Part& part, const float* weights, int group);

}  // namespace nmk

#endif  // NMK_WINOGRAD_WEIGHTS_H
