// Weights and levels -> the fastest packing for each level, shared where levels are prefixes of one another.

#include "levels.h"

#include <algorithm>
#include <utility>

namespace nmk {

namespace {

constexpr size_t kLargestTile = size_t{1} << 24;  // floats

// Whether what a few outputs keep of an input comes all at one level, of those up to `last`; levels below
// `first` count as that one. Only then does a list of such inputs hold the same weights at every level.
bool whole_kernels(const Conv& conv, const std::vector<uint8_t>& levels, int group, int first, int last) {
    const size_t taps = conv.tap_offsets.size(), inputs = static_cast<size_t>(conv.inputs);
    const auto side = static_cast<size_t>(group), outputs = static_cast<size_t>(conv.outputs);
    std::vector<int> found(inputs);
    for (size_t out = 0; out < outputs * static_cast<size_t>(conv.groups); ++out) {
        if (out % outputs % side == 0) std::fill(found.begin(), found.end(), kNever);
        for (size_t i = 0; i < inputs * taps; ++i) {
            const int level = std::max<int>(levels[out * inputs * taps + i], first);
            int& kept = found[i / taps];
            if (level > last || level == kept) continue;
            if (kept != kNever) return false;
            kept = level;
        }
    }
    return true;
}

// Whether a packing of the levels first + 1 to `last` can serve `first`, too.
bool nested(const Conv& conv, const Conv& below, const std::vector<uint8_t>& levels, int first, int last,
            const Kernels& kernels) {
    if (below.method != conv.method) return false;
    switch (conv.method) {
        case Method::sparse: return true;
        case Method::winograd: return whole_kernels(conv, levels, kernels.winograd_group, first, last);
        case Method::halves:  // sums of halves in another order would differ by what they are rounded to
        case Method::dense:
        case Method::pairs: break;
    }
    const auto between = [&](int level) { return level > first && level <= last; };
    return std::none_of(levels.begin(), levels.end(), between);
}

class Packer {
public:
    Packer(const ConvShape& shape, const std::vector<float>& weights, const std::vector<uint8_t>& levels,
           const Kernels& kernels)
        : record_(shape.record), shape_(shape), weights_(weights), levels_(levels), kernels_(kernels) {}

    Packings pack(int count) {
        made_.served.assign(static_cast<size_t>(count), Served{0, 0});
        const int top = count - 1;
        if (!add(method_of(top), top, top)) return {};
        // What is dense at the last level need not be so below it.
        if (record_.params[kFamily] == static_cast<int32_t>(Family::dense)) {
            record_.params[kFamily] = static_cast<int32_t>(Family::sparse);
        }
        int last = top;
        while (last > 0 && !adds(last)) --last;
        for (--last; last >= 0;) {
            Conv conv = method_of(last);
            int first = last;
            while (first > 0 && nested(conv, method_of(first - 1), levels_, first - 1, last, kernels_)) --first;
            if (!add(std::move(conv), first, last)) return {};
            last = first - 1;
        }
        return std::move(made_);
    }

private:
    bool adds(int level) const { return std::find(levels_.begin(), levels_.end(), level) != levels_.end(); }

    std::vector<float> kept_at(int level) const {
        std::vector<float> kept(weights_);
        for (size_t i = 0; i < kept.size(); ++i) {
            if (levels_[i] > level) kept[i] = 0.0f;
        }
        return kept;
    }

    Conv method_of(int level) const {
        return make_conv(record_, shape_.inputs, shape_.outputs, kept_at(level), kernels_);
    }

    // Packs the weights that the last of these levels keeps, and gives those levels to it; the levels below
    // the first count as that one.
    bool add(Conv conv, int first, int last) {
        if (conv.tile_floats() > kLargestTile) return false;
        std::vector<uint8_t> own(levels_);
        for (uint8_t& level : own) {
            level = level > last ? kNever : static_cast<uint8_t>(std::max<int>(level, first) - first);
        }
        conv.levels = last - first + 1;
        set_weights(conv, kept_at(last), own, kernels_);
        for (int level = first; level <= last; ++level) {
            made_.served[static_cast<size_t>(level)] = {made_.convs.size(), level - first};
        }
        made_.convs.push_back(std::move(conv));
        return true;
    }

    OperationRecord record_;
    const ConvShape& shape_;
    const std::vector<float>& weights_;
    const std::vector<uint8_t>& levels_;
    const Kernels& kernels_;
    Packings made_;
};

}  // namespace

Packings pack_levels(const ConvShape& shape, const std::vector<float>& weights,
                     const std::vector<uint8_t>& levels, int count, const Kernels& kernels) {
    return Packer(shape, weights, levels, kernels).pack(count);
}

}  // namespace nmk
