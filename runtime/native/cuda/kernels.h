// Every kernel that was compiled: one list for launching, naming, tests and the resource report.
#ifndef NMK_CUDA_KERNELS_H
#define NMK_CUDA_KERNELS_H

#include "params.h"

namespace nmk_cuda {

struct Kernel {
    const void* function;
    const char* name;  // operation, type, kind, outputs x rows of 16 pixels, stride
    Kind kind;
    bool block;  // two convolutions
    int outputs, stride;
    int tile_rows, tile_columns;  // outputs that one item makes
    int threads;
    size_t (*shared_bytes)(int bytes_of_step);
};

struct Kernels {
    const Kernel* first;
    int count;
};

// Of one type and kind, those preferred first where shared memory holds two blocks of them.
Kernels kernels_f16_dense();
Kernels kernels_f16_sparse();
Kernels kernels_f16_gathered();
Kernels kernels_bf16_dense();
Kernels kernels_bf16_sparse();
Kernels kernels_bf16_gathered();

}  // namespace nmk_cuda

#endif  // NMK_CUDA_KERNELS_H
