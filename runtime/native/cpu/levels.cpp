// Weights and the least level that keeps each -> the fastest packing of what every level keeps.

#include "levels.h"

#include <algorithm>
#include <utility>

namespace nmk {

namespace {

constexpr size_t kLargestTile = size_t{1} << 24;  // floats

std::vector<float> kept_at(int level, const std::vector<float>& weights, const std::vector<uint8_t>& levels) {
    std::vector<float> kept(weights);
    for (size_t i = 0; i < kept.size(); ++i) {
        if (levels[i] > level) kept[i] = 0.0f;
    }
    return kept;
}

// What is dense at the last level need not be so below it.
OperationRecord below(OperationRecord record) {
    int32_t& family = record.params[kFamily];
    if (family == static_cast<int32_t>(Family::dense)) family = static_cast<int32_t>(Family::sparse);
    return record;
}

}  // namespace

Packings pack_levels(const ConvShape& shape, const std::vector<float>& weights,
                     const std::vector<uint8_t>& levels, int count, const Kernels& kernels) {
    Packings made;
    made.served.resize(static_cast<size_t>(count));
    for (int level = count - 1; level >= 0; --level) {
        const bool adds_to = std::find(levels.begin(), levels.end(), level + 1) != levels.end();
        if (made.convs.empty() || adds_to) {
            const OperationRecord record = made.convs.empty() ? shape.record : below(shape.record);
            const std::vector<float> kept = kept_at(level, weights, levels);
            Conv conv = make_conv(record, shape.inputs, shape.outputs, kept, kernels);
            if (conv.tile_floats() > kLargestTile) return {};
            set_weights(conv, kept, kernels);
            made.convs.push_back(std::move(conv));
        }
        made.served[static_cast<size_t>(level)] = made.convs.size() - 1;
    }
    return made;
}

}  // namespace nmk
