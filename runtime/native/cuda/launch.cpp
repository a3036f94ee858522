// A layer on this device -> kernels chosen by what fits its shared memory, and queued.
#include "launch.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace nmk_cuda {
namespace {

struct Device {
    int major = 0, minor = 0, multiprocessors = 0, shared_bytes = 0;
};

std::string describe(Device& device) {
    int index = 0;
    std::string problem = cuda_problem(cudaGetDevice(&index), "cudaGetDevice");
    if (!problem.empty()) return "found no GPU that can be used (" + problem + "); run it where there is an NVIDIA GPU";
    const auto read = [&](int& value, cudaDeviceAttr attribute) {
        if (problem.empty()) {
            problem = cuda_problem(cudaDeviceGetAttribute(&value, attribute, index), "cudaDeviceGetAttribute");
        }
    };
    read(device.major, cudaDevAttrComputeCapabilityMajor);
    read(device.minor, cudaDevAttrComputeCapabilityMinor);
    read(device.multiprocessors, cudaDevAttrMultiProcessorCount);
    read(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (problem.empty() && device.major < 8) {
        problem = "found a GPU of compute capability " + std::to_string(device.major) + "." +
                  std::to_string(device.minor) + ", 8.0 or later is needed; run it on such a GPU";
    }
    return problem;
}

// Allows a kernel all of the shared memory, as layers of one kernel need different amounts and the last call would
// hold for all of them; says how many blocks of this layer run at once.
std::string prepare(const Kernel& kernel, size_t shared_bytes, const Device& device, int& at_once) {
    for (const auto& [attribute, value] : {std::pair(cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes),
                                           std::pair(cudaFuncAttributePreferredSharedMemoryCarveout, 100)}) {
        const std::string problem =
            cuda_problem(cudaFuncSetAttribute(kernel.function, attribute, value), "cudaFuncSetAttribute");
        if (!problem.empty()) return problem;
    }
    return cuda_problem(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel.function, kernel.threads,
                                                                      shared_bytes),
                        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
}

bool suits(const Kernel& kernel, const Layer& layer, bool block, const char* wanted) {
    return kernel.block == block && kernel.outputs == layer.outputs && kernel.stride == layer.stride &&
           (!wanted || std::strstr(kernel.name, wanted));
}

}  // namespace

Kernels kernels_of(bool brain, Kind kind) {
    if (kind == Kind::kDense) return brain ? kernels_bf16_dense() : kernels_f16_dense();
    if (kind == Kind::kSparse) return brain ? kernels_bf16_sparse() : kernels_f16_sparse();
    return brain ? kernels_bf16_gathered() : kernels_f16_gathered();
}

std::string cuda_problem(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return "";
    return std::string(call) + " failed: " + cudaGetErrorString(status);
}

// The first kernel of which a multiprocessor holds two blocks, so that one computes while the other stores;
// else the first that fits. Fused blocks recompute less the larger they are, so that the first that fits is taken.
std::string choose(const Layer& layer, const Level& level, bool block, Launch& launch) {
    Device device;
    std::string problem = describe(device);
    if (!problem.empty()) return problem;
    const char* wanted = std::getenv("NMK_CUDA_KERNEL");
    const Kernels all = kernels_of(layer.brain, level.kind);
    int most = 0;
    size_t least_bytes = SIZE_MAX;
    for (int i = 0; i < all.count; ++i) {
        const Kernel& kernel = all.first[i];
        if (!suits(kernel, layer, block, wanted)) continue;
        const size_t bytes = kernel.shared_bytes(level.step_bytes);
        least_bytes = std::min(least_bytes, bytes);
        if (bytes > static_cast<size_t>(device.shared_bytes)) continue;
        int at_once = 0;
        problem = prepare(kernel, bytes, device, at_once);
        if (!problem.empty()) return problem;
        if (std::min(at_once, block ? 1 : 2) <= most) continue;
        most = std::min(at_once, 2);
        launch = {&kernel, bytes, at_once * device.multiprocessors};
    }
    if (launch.kernel) return "";
    if (least_bytes == SIZE_MAX) {
        return std::string("found no kernel named like ") + (wanted ? wanted : "any") +
               " for its type, stride and outputs; unset NMK_CUDA_KERNEL";
    }
    return "found " + std::to_string(device.shared_bytes) + " bytes of shared memory for a block, " +
           std::to_string(least_bytes) + " are needed; run it on a GPU that has them";
}

std::string queue(const Launch& launch, Params p, int batch, cudaStream_t stream) {
    const Kernel& kernel = *launch.kernel;
    p.tiles_y = (p.out_height + kernel.tile_rows - 1) / kernel.tile_rows;
    p.tiles_x = (p.out_width + kernel.tile_columns - 1) / kernel.tile_columns;
    const double items = static_cast<double>(batch) * p.tiles_y * p.tiles_x * p.row_blocks;
    if (items > INT_MAX / 2) return "found an image of more than 2^30 tiles; cut it into smaller ones";
    p.items = static_cast<int>(items);
    void* arguments[] = {&p};
    const dim3 grid(static_cast<unsigned>(std::min(p.items, launch.most_blocks)));
    const dim3 block(static_cast<unsigned>(kernel.threads));
    return cuda_problem(cudaLaunchKernel(kernel.function, grid, block, arguments, launch.shared_bytes, stream),
                        kernel.name);
}

}  // namespace nmk_cuda
