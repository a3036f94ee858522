// Kernels that multiply dense weights in bf16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_bf16_dense() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Brain, Kind::kDense, "bf16_dense"),
        NMK_NARROW_KERNELS(Brain, Kind::kDense, "bf16_dense"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
