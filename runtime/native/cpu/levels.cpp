// Weights and the least level that keeps each -> the fastest packing of what every level keeps.

#include "levels.h"

#include <algorithm>
#include <utility>

namespace nmk {

namespace {

constexpr size_t kLargestTile = size_t{1} << 24;  // floats

// The weights of those outputs.
std::vector<float> of_outputs(const std::vector<float>& weights, const Layer& layer,
                              const std::vector<int>& outputs) {
    const size_t row = layer.outputs == 0 ? 0 : weights.size() / static_cast<size_t>(layer.outputs);
    std::vector<float> kept;
    kept.reserve(row * outputs.size());
    for (const int output : outputs) {
        const auto from = weights.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(output) * row);
        kept.insert(kept.end(), from, from + static_cast<ptrdiff_t>(row));
    }
    return kept;
}

// What is dense at the last level may be so below it, or all outputs keep the same there, or it is single weights.
OperationRecord below(OperationRecord record, const std::vector<float>& kept, size_t outputs) {
    int32_t& family = record.params[kFamily];
    if (family != static_cast<int32_t>(Family::dense)) return record;
    const size_t row = kept.size() / outputs;
    const auto same = [](float a, float b) { return (a != 0.0f) == (b != 0.0f); };
    const bool shared = std::equal(kept.begin() + static_cast<ptrdiff_t>(row), kept.end(), kept.begin(), same);
    family = static_cast<int32_t>(shared ? Family::shared : Family::sparse);
    return record;
}

}  // namespace

Packings pack_levels(const OperationRecord& record, const Layer& layer, const std::vector<Folded>& folded,
                     const std::vector<std::vector<int>>& outputs, const Kernels& kernels) {
    Packings made;
    made.served.resize(outputs.size());
    std::vector<float> above;
    for (size_t level = outputs.size(); level-- > 0;) {
        const std::vector<int>& own = outputs[level];
        if (own.empty()) {
            made.served[level] = kIdle;
            continue;
        }
        std::vector<float> kept = of_outputs(folded[level].weights, layer, own);
        if (made.convs.empty() || own != outputs[level + 1] || kept != above ||
            made.convs.back().bias != folded[level].bias) {
            const bool all = made.convs.empty() && folded[level].weights == layer.weights;
            const OperationRecord as = all ? record : below(record, kept, own.size());
            Conv conv = make_conv(as, layer.inputs, static_cast<int>(own.size()), kept, kernels);
            if (conv.tile_floats() > kLargestTile) return {};
            if (own.size() < static_cast<size_t>(layer.outputs)) conv.places = own;
            conv.bias = folded[level].bias;
            set_weights(conv, kept, kernels);
            made.convs.push_back(std::move(conv));
            above = std::move(kept);
        }
        made.served[level] = made.convs.size() - 1;
    }
    return made;
}

}  // namespace nmk
