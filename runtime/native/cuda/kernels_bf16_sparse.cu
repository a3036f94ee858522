// Kernels that multiply sparse weights in bf16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_bf16_sparse() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Brain, Kind::kSparse, "bf16_sparse"),
        NMK_NARROW_KERNELS(Brain, Kind::kSparse, "bf16_sparse"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
