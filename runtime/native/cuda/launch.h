// A layer on this device -> which kernel runs each of its levels, in how many blocks.
#ifndef NMK_CUDA_LAUNCH_H
#define NMK_CUDA_LAUNCH_H

#include <cuda_runtime.h>

#include "kernels.h"
#include "packed.h"

namespace nmk_cuda {

struct Launch {
    const Kernel* kernel = nullptr;
    size_t shared_bytes = 0;
    int most_blocks = 0;  // as many as the device holds at once
};

// What is wrong, or "" if nothing: the name of the call and CUDA's own words.
std::string cuda_problem(cudaError_t status, const char* call);

// All kernels of a type and kind.
Kernels kernels_of(bool brain, Kind kind);

// Chooses the kernel for weights of a layer's level; `block` for two convolutions in one.
std::string choose(const Layer& layer, const Level& level, bool block, Launch& launch);

// Queues `p`, of which the numbers of tiles and items are filled in here.
std::string queue(const Launch& launch, Params p, int batch, cudaStream_t stream);

}  // namespace nmk_cuda

#endif  // NMK_CUDA_LAUNCH_H
