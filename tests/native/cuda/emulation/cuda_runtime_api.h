// What the C part of the CUDA runtime declares -> the types that TensorRT's headers name.
#ifndef NMK_EMULATED_CUDA_RUNTIME_API_H
#define NMK_EMULATED_CUDA_RUNTIME_API_H

using cudaStream_t = void*;
using cudaEvent_t = void*;

#endif  // NMK_EMULATED_CUDA_RUNTIME_API_H
