// Skipped ends of branches -> channels that are others and a constant, at a level; so that a convolution over both
// reads one.
//
// Where a branch's end keeps nothing, its result is its residual and the bias. A convolution over the concatenation
// of the two has weights for each: their sum over the residual alone gives the same.
#ifndef NMK_FOLDS_H
#define NMK_FOLDS_H

#include <vector>

#include "levels.h"
#include "program.h"

namespace nmk {

// What a channel is: another of the same buffer, or itself, and what is added to that.
struct Same {
    uint32_t channel;
    float shift;
};

// A convolution's weights and bias at a level, over as few of its input channels as give the same; `same` says what
// these are, counted from the first.
Folded fold(const Operation& operation, const Layer& layer, int level, const std::vector<Same>& same);

// Goes through the operations, the first to the last, at one level.
class Folds {
public:
    Folds(const Program& program, int level);

    // Of the input channels of an operation, counted from the first; those that are beyond them count as themselves.
    std::vector<Same> inputs_of(const Operation& operation) const;

    // Takes note of what an operation writes; `layer` is a convolution's.
    void add(const Operation& operation, const Layer& layer);

private:
    const Program& program_;
    const int level_;
    std::vector<std::vector<Same>> same_;  // of each buffer's channels
};

}  // namespace nmk

#endif  // NMK_FOLDS_H
