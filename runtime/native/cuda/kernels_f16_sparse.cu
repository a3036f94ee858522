// Kernels that multiply sparse weights in f16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_f16_sparse() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Half, Kind::kSparse, "f16_sparse"),
        NMK_NARROW_KERNELS(Half, Kind::kSparse, "f16_sparse"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
