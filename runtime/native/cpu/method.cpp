// A convolution's shape and weights -> the fastest kernel for them, by what each was measured to take.

#include "method.h"

#include <algorithm>

#include "winograd_weights.h"

namespace nmk {

namespace {

// Costs are microseconds of one 64 -> 64 layer at 180x320 on Zen 4, about one a product a pixel: those
// of benchmarks/kernels.py, from dense to 1:32, are met within 10 % (pairs apart).
constexpr int kPass = 16;  // bringing a channel into or out of a kernel: packing, transforms, epilogue

int64_t taps(const Conv& conv) { return int64_t{conv.kernel_y} * conv.kernel_x; }

bool fits_winograd(const Conv& conv) {
    return conv.kernel_y == 3 && conv.kernel_x == 3 && conv.stride_y == 1 && conv.stride_x == 1 &&
           conv.dilation_y == 1 && conv.dilation_x == 1;
}

int64_t dense_cost(const Conv& conv, const Kernels& kernels) {
    const int64_t outputs = (conv.outputs + kernels.dense_group - 1) / kernels.dense_group;
    return taps(conv) * conv.inputs * outputs * kernels.dense_group * 10 / 9;
}

int64_t winograd_cost(const Conv& conv, const float* weights, const Kernels& kernels) {
    std::vector<bool> used(static_cast<size_t>(conv.inputs));
    int64_t kept = 0;
    for (const std::vector<int>& list : kept_inputs(conv, weights, kernels.winograd_group)) {
        kept += static_cast<int64_t>(list.size());
        for (const int in : list) used[static_cast<size_t>(in)] = true;
    }
    const int64_t channels = std::count(used.begin(), used.end(), true) + conv.outputs;
    return kept * kernels.winograd_group * 11 / 4 + kPass * channels;
}

int64_t nonzero(const Conv& conv, const float* weights, int outputs) {
    const int64_t size = taps(conv) * conv.inputs * outputs;
    return size - std::count(weights, weights + size, 0.0f);
}

int64_t sparse_cost(const Conv& conv, const float* weights) {
    return nonzero(conv, weights, conv.outputs) * 4 / 3 + (kPass + 4) * (conv.inputs + conv.outputs);
}

// Outputs that keep the same gather it once; where each keeps its own that costs more than it saves. A layer
// alone takes more than this: the constant is such that EDSR at 64x2:4, where pairs are 8 % faster, takes them.
int64_t pairs_cost(const Conv& conv, const float* weights) {
    const int64_t row = taps(conv) * conv.inputs;
    const auto same = [](float a, float b) { return (a != 0.0f) == (b != 0.0f); };
    int64_t gathered = 0;
    for (int out = 0; out < conv.outputs; ++out) {
        const float* own = weights + out * row;
        if (out > 0 && std::equal(own, own + row, own - row, same)) continue;
        const int64_t kept = nonzero(conv, own, 1);
        if (kept < row) gathered += kept;
    }
    return nonzero(conv, weights, conv.outputs) * 4 / 9 + gathered * 3 + kPass * (conv.inputs + conv.outputs);
}

int64_t cost(const Conv& conv, Method method, const float* weights, const Kernels& kernels) {
    switch (method) {
        case Method::winograd: return winograd_cost(conv, weights, kernels);
        case Method::sparse: return sparse_cost(conv, weights);
        case Method::pairs: return pairs_cost(conv, weights);
        case Method::halves:  // twice the lanes; no processor that has them was at hand
            return std::min(sparse_cost(conv, weights), dense_cost(conv, kernels)) / 2;
        case Method::dense: break;
    }
    return dense_cost(conv, kernels);
}

}  // namespace

Method best_method(const Conv& conv, Family family, Precision precision,
                   const std::vector<float>& weights, const Kernels& kernels) {
    // A skipped layer gives its bias, which lists of nothing do at once.
    if (std::all_of(weights.begin(), weights.end(), [](float w) { return w == 0.0f; })) return Method::sparse;
    const bool halves = precision == Precision::fp16 && kernels.conv_halves != nullptr;
    const bool pairs = precision == Precision::bf16 && kernels.pair_layout != PairLayout::none &&
                       family != Family::sparse;
    // Tiles of AMX beat everything.
    if (pairs && kernels.pair_layout == PairLayout::tiles) return Method::pairs;
    const Method exact = family == Family::dense ? Method::dense : Method::sparse;
    const Method direct = halves ? Method::halves : pairs ? Method::pairs : exact;
    if (!fits_winograd(conv)) return direct;
    int64_t winograd = 0, other = 0;
    const ptrdiff_t size = taps(conv) * conv.inputs * conv.outputs;
    for (int group = 0; group < conv.groups; ++group) {
        const float* own = weights.data() + group * size;
        winograd += cost(conv, Method::winograd, own, kernels);
        other += cost(conv, direct, own, kernels);
    }
    return winograd < other ? Method::winograd : direct;
}

}  // namespace nmk
