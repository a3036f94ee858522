// Kernels that multiply gathered weights in bf16 -> compiled, and listed.
#include "kernels.cuh"

namespace nmk_cuda {

Kernels kernels_bf16_gathered() {
    static const Kernel kernels[] = {
        NMK_KERNELS(Brain, Kind::kGathered, "bf16_gathered"),
    };
    return {kernels, static_cast<int>(sizeof(kernels) / sizeof(kernels[0]))};
}

}  // namespace nmk_cuda
