// Kernels that multiply gathered weights in f16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_f16_gathered() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Half, Kind::kGathered, "f16_gathered"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
