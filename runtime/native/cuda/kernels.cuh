// The kernels' templates -> entry points, and a table of them for one type and kind.
#ifndef NMK_CUDA_KERNELS_CUH
#define NMK_CUDA_KERNELS_CUH

#include <cuda_runtime.h>

#include "block.cuh"
#include "kernels.h"

namespace nmk_cuda {

// Registers for at least so many blocks at once: 255 a thread where a warp has 64 pixels, else 168.
template <class S>
constexpr int blocks_at_once() {
    return S::warps > 4 ? 1 : S::rows > 2 ? 2 : 3;
}

template <class S>
__global__ void __launch_bounds__(S::threads, blocks_at_once<S>()) conv_kernel(const __grid_constant__ Params p) {
    conv<S>(p);
}

template <class S>
__global__ void __launch_bounds__(S::threads, 1) block_kernel(const __grid_constant__ Params p) {
    residual_block<S>(p);
}

template <class S>
Kernel conv_entry(const char* name) {
    return {reinterpret_cast<const void*>(&conv_kernel<S>), name, S::kind, false, S::outputs, S::stride,
            S::tile_rows, kTileColumns, S::threads, &conv_shared_bytes<S>};
}

template <class S>
Kernel block_entry(const char* name) {
    return {reinterpret_cast<const void*>(&block_kernel<S>), name, S::kind, true, S::outputs, S::stride,
            kBlockRows<S>, kBlockColumns, S::threads, &block_shared_bytes<S>};
}

// The list of kernels of type T and one kind, whose names begin with `prefix`.
#define NMK_KERNELS(T, kind, prefix)                                        \
    conv_entry<Shape<T, kind, 4, 4, 4, 1>>(prefix "_64x16_s1"),             \
    conv_entry<Shape<T, kind, 4, 4, 2, 1>>(prefix "_64x8_s1"),              \
    conv_entry<Shape<T, kind, 4, 4, 1, 2>>(prefix "_64x4_s2"),              \
    block_entry<Shape<T, kind, 4, 8, 2, 1>>("block_" prefix "_64x16"),      \
    block_entry<Shape<T, kind, 4, 4, 2, 1>>("block_" prefix "_64x8")
// For layers of at most 16 outputs; their weights cannot be shared by 64.
#define NMK_NARROW_KERNELS(T, kind, prefix)                                 \
    conv_entry<Shape<T, kind, 1, 4, 4, 1>>(prefix "_16x16_s1"),             \
    conv_entry<Shape<T, kind, 1, 4, 2, 1>>(prefix "_16x8_s1")

}  // namespace nmk_cuda

#endif  // NMK_CUDA_KERNELS_CUH
