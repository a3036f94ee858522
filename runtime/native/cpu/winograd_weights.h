// Whether Winograd's kernel pays for a convolution, and its weights in the order the kernel reads.
#ifndef NMK_WINOGRAD_WEIGHTS_H
#define NMK_WINOGRAD_WEIGHTS_H

#include "aligned.h"
#include "kernels.h"

namespace nmk {

struct Conv;

// Whether its 36 products and the transforms take less than the 144 products of the direct sum.
bool winograd_pays(int inputs, int outputs, const Kernels& kernels);

// Weights [out][in][3][3] of one group -> G g G^T of each, as [outputs / WG][36][in][WG].
void set_winograd(const Conv& conv, Aligned<float>& to, const float* weights, int group);

}  // namespace nmk

#endif  // NMK_WINOGRAD_WEIGHTS_H
