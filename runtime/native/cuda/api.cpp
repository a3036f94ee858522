// include/nmk_cuda.h -> layers on the device, and the kernels' arguments.
#include "nmk_cuda.h"

#include <climits>
#include <cstdio>
#include <memory>
#include <new>

#include "launch.h"

using namespace nmk_cuda;

struct nmk_cuda_conv {
    Layer layer;
    std::string name;
    unsigned char* bytes = nullptr;  // on the device
    std::vector<Launch> launches;    // of each level

    ~nmk_cuda_conv() { cudaFree(bytes); }
};

struct nmk_cuda_block {
    const nmk_cuda_conv *first, *second;
    std::string name;
    std::vector<Launch> launches;
};

namespace {

struct Text {
    char* text;
    size_t size;

    // Says what is wrong, if anything is; whether something was.
    bool say(const std::string& name, const std::string& problem) const {
        if (!problem.empty() && size) std::snprintf(text, size, "layer %s: %s", name.c_str(), problem.c_str());
        return !problem.empty();
    }
};

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kVectorBytes == 0; }

std::string sizes_problem(const Layer& layer, int64_t batch, int64_t height, int64_t width) {
    if (batch < 1 || height < 1 || width < 1 || batch > INT_MAX || height > (1 << 20) || width > (1 << 20)) {
        return "found an image of " + std::to_string(batch) + " x " + std::to_string(height) + " x " +
               std::to_string(width) + ", expected sides from 1 to 2^20";
    }
    if (height + layer.pad_top + layer.pad_bottom < layer.kernel_height ||
        width + layer.pad_left + layer.pad_right < layer.kernel_width) {
        return "found an image of " + std::to_string(height) + " x " + std::to_string(width) +
               ", its kernel is larger; give it a larger image";
    }
    return "";
}

// A level that is there, or one that the device will choose.
std::string level_problem(size_t levels, int level, const int* chosen) {
    if (level < 0 ? chosen != nullptr : level < static_cast<int>(levels)) return "";
    return "found level " + std::to_string(level) + ", expected 0 to " + std::to_string(levels - 1) +
           ", or a negative one and where the device holds it";
}

Weights weights_of(const nmk_cuda_conv& conv, size_t level) {
    const Level& found = conv.layer.levels[level];
    return {conv.bytes + found.offset, reinterpret_cast<const float*>(conv.bytes + conv.layer.bias),
            found.step_bytes, found.gathers, conv.layer.activation, conv.layer.slope};
}

Params params_of(const Layer& layer, int64_t height, int64_t width) {
    Params p{};
    p.height = static_cast<int>(height);
    p.width = static_cast<int>(width);
    p.channels = layer.channels;
    p.out_height = (p.height + layer.pad_top + layer.pad_bottom - layer.kernel_height) / layer.stride + 1;
    p.out_width = (p.width + layer.pad_left + layer.pad_right - layer.kernel_width) / layer.stride + 1;
    p.rows = layer.rows;
    p.kernel_height = layer.kernel_height;
    p.kernel_width = layer.kernel_width;
    p.pad_top = layer.pad_top;
    p.pad_left = layer.pad_left;
    p.chunks = layer.chunks();
    p.row_blocks = layer.row_blocks();
    p.residual_place = layer.residual;
    p.shuffle = layer.shuffle;
    return p;
}

std::string load(nmk_cuda_conv& conv, const unsigned char* bytes, size_t size) {
    std::string problem;
    if (!read_layer(bytes, size, conv.layer, problem)) return problem;
    for (const Level& level : conv.layer.levels) {
        conv.launches.emplace_back();
        problem = choose(conv.layer, level, false, conv.launches.back());
        if (!problem.empty()) return problem;
    }
    void* memory = nullptr;
    problem = cuda_problem(cudaMalloc(&memory, size), "cudaMalloc");
    if (!problem.empty()) return problem;
    conv.bytes = static_cast<unsigned char*>(memory);
    return cuda_problem(cudaMemcpy(memory, bytes, size, cudaMemcpyHostToDevice), "cudaMemcpy");
}

std::string block_problem(const nmk_cuda_conv& first, const nmk_cuda_conv& second) {
    for (const nmk_cuda_conv* conv : {&first, &second}) {
        const Layer& l = conv->layer;
        if (l.channels != 64 || l.rows != 64 || l.outputs != 64 || l.kernel_height != 3 || l.stride != 1 ||
            l.pad_top != 1 || l.pad_left != 1 || l.pad_bottom != 1 || l.pad_right != 1 || l.shuffle != 1) {
            return "found a convolution that no fused block takes (" + conv->name +
                   "), expected 3x3, stride 1, padding 1, 64 to 64 channels; run the two one after the other";
        }
    }
    const Layer &a = first.layer, &b = second.layer;
    bool alike = a.brain == b.brain && a.levels.size() == b.levels.size() && a.residual == Residual::kNone;
    for (size_t i = 0; alike && i < a.levels.size(); ++i) {
        alike = a.levels[i].kind == b.levels[i].kind && a.levels[i].gathers == b.levels[i].gathers;
    }
    if (alike) return "";
    return "found two convolutions of different types, kinds of weights or levels, or a residual in the first; "
           "run them one after the other";
}

std::string run_levels(const std::vector<Launch>& launches, int level, const int* chosen, int64_t batch,
                       cudaStream_t stream, const Params& common, const nmk_cuda_conv& first,
                       const nmk_cuda_conv* second) {
    for (size_t i = 0; i < launches.size(); ++i) {
        if (level >= 0 && static_cast<size_t>(level) != i) continue;
        Params p = common;
        p.level = static_cast<int>(i);
        p.level_chosen = level < 0 ? chosen : nullptr;
        p.weights = weights_of(first, i);
        if (second) p.second = weights_of(*second, i);
        const std::string problem = queue(launches[i], p, static_cast<int>(batch), stream);
        if (!problem.empty()) return problem;
    }
    return "";
}

const Kernel* kernel_at(int index) {
    for (const bool brain : {false, true}) {
        for (const Kind kind : {Kind::kDense, Kind::kSparse, Kind::kGathered}) {
            const Kernels kernels = kernels_of(brain, kind);
            if (index >= 0 && index < kernels.count) return kernels.first + index;
            index -= kernels.count;
        }
    }
    return nullptr;
}

}  // namespace

int nmk_cuda_abi_version(void) { return NMK_CUDA_ABI_VERSION; }

const char* nmk_cuda_kernel_name(int index) {
    const Kernel* kernel = kernel_at(index);
    return kernel ? kernel->name : nullptr;
}

size_t nmk_cuda_kernel_shared_bytes(int index) {
    const Kernel* kernel = kernel_at(index);
    return kernel ? kernel->shared_bytes(step_bytes(kernel->kind, kernel->outputs / 16, 1)) : 0;
}

nmk_cuda_conv* nmk_cuda_conv_load(const void* bytes, size_t size, const char* name, char* text, size_t text_size) {
    std::unique_ptr<nmk_cuda_conv> conv(new (std::nothrow) nmk_cuda_conv);
    if (!conv) return nullptr;
    conv->name = name;
    const std::string problem = load(*conv, static_cast<const unsigned char*>(bytes), size);
    return Text{text, text_size}.say(conv->name, problem) ? nullptr : conv.release();
}

void nmk_cuda_conv_free(nmk_cuda_conv* conv) { delete conv; }

int nmk_cuda_conv_levels(const nmk_cuda_conv* conv) { return static_cast<int>(conv->launches.size()); }

const char* nmk_cuda_conv_kernel(const nmk_cuda_conv* conv, int level) {
    const bool there = level >= 0 && static_cast<size_t>(level) < conv->launches.size();
    return there ? conv->launches[static_cast<size_t>(level)].kernel->name : nullptr;
}

int nmk_cuda_conv_output(const nmk_cuda_conv* conv, int64_t height, int64_t width, int64_t* shape, char* text,
                         size_t text_size) {
    const Layer& layer = conv->layer;
    if (Text{text, text_size}.say(conv->name, sizes_problem(layer, 1, height, width))) return 1;
    const Params p = params_of(layer, height, width);
    shape[0] = static_cast<int64_t>(p.out_height) * layer.shuffle;
    shape[1] = static_cast<int64_t>(p.out_width) * layer.shuffle;
    shape[2] = layer.rows / (layer.shuffle * layer.shuffle);
    return 0;
}

int nmk_cuda_conv_run(const nmk_cuda_conv* conv, const void* input, const void* residual, void* output, int64_t batch,
                      int64_t height, int64_t width, int level, const int* level_chosen, void* stream, char* text,
                      size_t text_size) {
    std::string problem = sizes_problem(conv->layer, batch, height, width);
    if (problem.empty()) problem = level_problem(conv->launches.size(), level, level_chosen);
    if (problem.empty() && (residual != nullptr) != (conv->layer.residual != Residual::kNone)) {
        problem = residual ? "found a residual, the layer adds none" : "found no residual, the layer adds one";
    }
    if (problem.empty() && !(aligned(input) && aligned(residual) && aligned(output))) {
        problem = "found an image that is not aligned to 16 bytes; copy it to memory of its own";
    }
    if (problem.empty()) {
        Params p = params_of(conv->layer, height, width);
        p.input = static_cast<const uint16_t*>(input);
        p.residual = static_cast<const uint16_t*>(residual);
        p.output = static_cast<uint16_t*>(output);
        problem = run_levels(conv->launches, level, level_chosen, batch, static_cast<cudaStream_t>(stream), p, *conv,
                             nullptr);
    }
    return Text{text, text_size}.say(conv->name, problem) ? 1 : 0;
}

nmk_cuda_block* nmk_cuda_block_load(const nmk_cuda_conv* first, const nmk_cuda_conv* second, char* text,
                                    size_t text_size) {
    std::unique_ptr<nmk_cuda_block> block(new (std::nothrow) nmk_cuda_block{first, second, "", {}});
    if (!block) return nullptr;
    block->name = first->name + " and " + second->name;
    std::string problem = block_problem(*first, *second);
    for (size_t i = 0; problem.empty() && i < first->layer.levels.size(); ++i) {
        block->launches.emplace_back();
        problem = choose(first->layer, first->layer.levels[i], true, block->launches.back());
    }
    return Text{text, text_size}.say(block->name, problem) ? nullptr : block.release();
}

void nmk_cuda_block_free(nmk_cuda_block* block) { delete block; }

const char* nmk_cuda_block_kernel(const nmk_cuda_block* block, int level) {
    const bool there = level >= 0 && static_cast<size_t>(level) < block->launches.size();
    return there ? block->launches[static_cast<size_t>(level)].kernel->name : nullptr;
}

int nmk_cuda_block_run(const nmk_cuda_block* block, const void* input, void* output, int64_t batch, int64_t height,
                       int64_t width, int level, const int* level_chosen, void* stream, char* text, size_t text_size) {
    const Layer& layer = block->second->layer;
    std::string problem = sizes_problem(layer, batch, height, width);
    if (problem.empty()) problem = level_problem(block->launches.size(), level, level_chosen);
    if (problem.empty() && !(aligned(input) && aligned(output))) {
        problem = "found an image that is not aligned to 16 bytes; copy it to memory of its own";
    }
    if (problem.empty()) {
        Params p = params_of(layer, height, width);
        p.input = p.residual = static_cast<const uint16_t*>(input);
        p.output = static_cast<uint16_t*>(output);
        problem = run_levels(block->launches, level, level_chosen, batch, static_cast<cudaStream_t>(stream), p,
                             *block->first, block->second);
    }
    return Text{text, text_size}.say(block->name, problem) ? 1 : 0;
}
