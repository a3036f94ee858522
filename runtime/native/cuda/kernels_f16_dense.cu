// Kernels that multiply dense weights in f16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_f16_dense() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Half, Kind::kDense, "f16_dense"),
        NMK_NARROW_KERNELS(Half, Kind::kDense, "f16_dense"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
