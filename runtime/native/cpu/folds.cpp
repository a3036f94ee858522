// Which channels are others and a constant, and what convolutions make of it.

#include "folds.h"

#include <algorithm>
#include <numeric>

namespace nmk {

Folded fold(const Operation& operation, const Layer& layer, int level, const std::vector<Same>& same) {
    const int32_t* p = operation.record.params;
    Folded made{layer.weights, {}};
    for (size_t i = 0; i < made.weights.size(); ++i) {
        if (layer.levels[i] > level) made.weights[i] = 0.0f;
    }
    if (p[kGroups] != 1) return made;
    // What is beyond the image's end is zero, not the constant.
    const bool padded = p[kPadTop] != 0 || p[kPadBottom] != 0 || p[kPadLeft] != 0 || p[kPadRight] != 0;
    const size_t inputs = same.size(), outputs = static_cast<size_t>(layer.outputs);
    const size_t positions = static_cast<size_t>(p[kKernelY] * p[kKernelX]);
    const std::vector<float>& bias = operation.values[kBias];
    for (size_t c = 0; c < inputs; ++c) {
        const auto [other, shift] = same[c];
        if (other == c || (padded && shift != 0.0f)) continue;
        if (shift != 0.0f && made.bias.empty()) made.bias = bias.empty() ? std::vector<float>(outputs) : bias;
        for (size_t output = 0; output < outputs; ++output) {
            float* own = made.weights.data() + (output * inputs + c) * positions;
            float* to = made.weights.data() + (output * inputs + other) * positions;
            if (shift != 0.0f) made.bias[output] += shift * std::accumulate(own, own + positions, 0.0f);
            for (size_t i = 0; i < positions; ++i) to[i] += own[i], own[i] = 0.0f;
        }
    }
    return made;
}

Folds::Folds(const Program& program, int level) : program_(program), level_(level) {
    for (const uint32_t channels : program.buffer_channels) {
        std::vector<Same>& own = same_.emplace_back(channels);
        for (uint32_t c = 0; c < channels; ++c) own[c] = {c, 0.0f};
    }
}

std::vector<Same> Folds::inputs_of(const Operation& operation) const {
    const ValueRecord& input = program_.values[operation.record.inputs[0]];
    std::vector<Same> found(input.channels);
    for (uint32_t c = 0; c < input.channels; ++c) {
        const Same& same = same_[input.buffer][input.first + c];
        const uint32_t other = same.channel - input.first;
        found[c] = other < input.channels ? Same{other, same.shift} : Same{c, 0.0f};
    }
    return found;
}

void Folds::add(const Operation& operation, const Layer& layer) {
    const OperationRecord& record = operation.record;
    const ValueRecord& output = program_.values[record.output];
    std::vector<Same>& own = same_[output.buffer];
    const auto written = [&](uint32_t channel) { return channel - output.first < output.channels; };
    for (uint32_t c = 0; c < own.size(); ++c) {
        if (written(c) || written(own[c].channel)) own[c] = {c, 0.0f};
    }
    if (operation.kind() != Kind::conv2d || !adds_residual(record)) return;
    if (program_.values[record.inputs[1]].buffer != output.buffer) return;
    const auto left_out = [this](uint8_t least) { return least > level_; };
    if (!std::all_of(layer.levels.begin(), layer.levels.end(), left_out)) return;
    const uint32_t residual = program_.values[record.inputs[1]].first;
    const std::vector<float>& bias = operation.values[kBias];
    for (uint32_t c = 0; c < output.channels; ++c) {
        Same same = own[residual + c];
        if (!bias.empty()) same.shift += record.scalars[kAlpha] * bias[c];
        own[output.first + c] = same;
    }
}

}  // namespace nmk
