// Masks and weights -> picks, offsets and words of bf16 pairs.

#include "pair_weights.h"

#include <cstring>

namespace nmk {

namespace {

constexpr int kNoChannel = -1, kPadding = -2;  // in place of a step's second channel
constexpr int kTileSide = 16;

// One step of the reduction: two channels (or one, or padding) at one kernel position.
struct Step {
    int low, high, tap;
};

uint32_t rounded(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

class Builder {
public:
    Builder(const Conv& conv, const float* weights, const Kernels& kernels)
        : conv_(conv), weights_(weights), kernels_(kernels),
          taps_(static_cast<int>(conv.tap_offsets.size())),
          tiles_(kernels.pair_layout == PairLayout::tiles) {}

    std::vector<PairBlock> build() const {
        std::vector<PairBlock> blocks;
        int first = 0;
        for (int out = 1; out <= conv_.outputs; ++out) {
            if (out < conv_.outputs && same_kept(first, out)) continue;
            blocks.push_back(block(first, out - first));
            first = out;
        }
        return blocks;
    }

private:
    float weight(int out, int in, int tap) const {
        return weights_[(static_cast<ptrdiff_t>(out) * conv_.inputs + in) * taps_ + tap];
    }

    bool same_kept(int a, int b) const {
        for (int i = 0; i < conv_.inputs * taps_; ++i) {
            const ptrdiff_t row = static_cast<ptrdiff_t>(conv_.inputs) * taps_;
            if ((weights_[a * row + i] != 0.0f) != (weights_[b * row + i] != 0.0f)) return false;
        }
        return true;
    }

    PairBlock block(int first, int outputs) const {
        std::vector<Step> kept = kept_steps(first);
        const std::vector<Step> all = all_steps();
        const int group = tiles_ ? kMostSums : kernels_.dense_group;
        const int64_t steps = int64_t{(outputs + group - 1) / group} * (tiles_ ? 1 : kTileRows);
        PairBlock made{first, outputs, {}, {}, 0, steps, {}};
        // Regrouping pays once a fifth of the steps falls away.
        if (kept.size() * 5 > all.size() * 4) {
            for (size_t i = 0; i < all.size(); i += tiles_ ? kTileSide : 1) {
                const ptrdiff_t at = all[i].low / 2 * conv_.tile_channel;
                made.offsets.push_back(static_cast<uint32_t>(at) + offset(all[i].tap));
            }
            made.pair_step = conv_.tile_channel;
            set_words(made, all);
            return made;
        }
        while (tiles_ && kept.size() % kTileSide != 0) kept.push_back({kept[0].low, kPadding, kept[0].tap});
        made.pair_step = static_cast<ptrdiff_t>(kTileRows) * kTileColumns * kernels_.lanes;
        for (size_t i = 0; i < kept.size(); ++i) {
            made.picks.push_back(pick(kept[i]));
            if (!tiles_ || i % kTileSide == 0) {
                made.offsets.push_back(static_cast<uint32_t>(static_cast<ptrdiff_t>(i) * made.pair_step));
            }
        }
        set_words(made, kept);
        return made;
    }

    uint32_t offset(int tap) const { return conv_.tap_offsets[static_cast<size_t>(tap)]; }

    // Every channel at every tap: for tiles tap by tap, filled up to whole ones; else a pair's taps
    // together, which share most of what they load.
    std::vector<Step> all_steps() const {
        const int pairs = conv_.packed_channels;
        std::vector<Step> steps;
        for (int i = 0; i < pairs * taps_; ++i) {
            const int pair = tiles_ ? i % pairs : i / taps_, tap = tiles_ ? i / pairs : i % taps_;
            const auto channel = [&](int c) { return c < conv_.inputs ? c : kNoChannel; };
            steps.push_back({2 * pair, channel(2 * pair + 1), tap});
        }
        return steps;
    }

    std::vector<Step> kept_steps(int out) const {
        std::vector<Step> steps;
        for (int tap = 0; tap < taps_; ++tap) {
            bool open = false;
            for (int in = 0; in < conv_.inputs; ++in) {
                if (weight(out, in, tap) == 0.0f) continue;
                if (open) {
                    steps.back().high = in;
                } else {
                    steps.push_back({in, kNoChannel, tap});
                }
                open = !open;
            }
        }
        return steps;
    }

    // A missing channel is the other one again, so that its zero weight meets no stranger's NaN.
    Pick pick(const Step& step) const {
        const int high = step.high < 0 ? step.low : step.high;
        const auto word = [&](int channel) {
            return static_cast<uint32_t>(channel / 2 * conv_.tile_channel) + offset(step.tap);
        };
        return {word(step.low), word(high), step.low % 2 * 16, high % 2 * 16};
    }

    void set_words(PairBlock& made, const std::vector<Step>& steps) const {
        const int group = tiles_ ? kTileSide : kernels_.dense_group;
        const size_t rows = static_cast<size_t>((made.outputs + group - 1) / group * group);
        made.words = aligned<uint32_t>(rows * steps.size());
        for (int out = 0; out < made.outputs; ++out) {
            for (size_t i = 0; i < steps.size(); ++i) {
                made.words[place(out, i, steps.size(), group)] = word(made.first + out, steps[i]);
            }
        }
    }

    size_t place(int out, size_t step, size_t steps, int group) const {
        const auto block = static_cast<size_t>(out / group), row = static_cast<size_t>(out % group);
        const auto side = static_cast<size_t>(group);
        if (!tiles_) return (block * steps + step) * side + row;
        return (block * (steps / side) + step / side) * side * side + row * side + step % side;
    }

    uint32_t word(int out, const Step& step) const {
        if (step.high == kPadding || step.low >= conv_.inputs) return 0;
        const uint32_t low = rounded(weight(out, step.low, step.tap));
        const uint32_t high = step.high < 0 ? 0 : rounded(weight(out, step.high, step.tap));
        return low | high << 16;
    }

    const Conv& conv_;
    const float* weights_;
    const Kernels& kernels_;
    int taps_;
    bool tiles_;
};

}  // namespace

std::vector<PairBlock> pair_blocks(const Conv& conv, const float* weights, const Kernels& kernels) {
    return Builder(conv, weights, kernels).build();
}

}  // namespace nmk
