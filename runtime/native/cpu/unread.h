// Operations from the last to the first -> which channels of each buffer one of them goes on to read, at a level.
//
// What nobody reads is not computed: where all outputs of a layer leave out the same inputs, the layer before it
// has that many fewer outputs.
#ifndef NMK_UNREAD_H
#define NMK_UNREAD_H

#include <vector>

#include "program.h"

namespace nmk {

class Readers {
public:
    explicit Readers(const Program& program);

    bool any_of(const Operation& operation) const;  // any channel of its result is read

    // The channels that a convolution must compute of its own, before a pixel shuffle.
    std::vector<int> outputs_of(const Operation& operation) const;

    // Takes note of what an operation reads, given what is read of its result, if anything; a convolution by that
    // packing of it.
    void add(const Operation& operation, const Conv* conv);

private:
    bool is_read(uint32_t value, uint32_t channel) const;
    void mark(uint32_t value, uint32_t channel);
    void mark_inputs(const Operation& operation, const Conv& conv);
    void mark_channels(const Operation& operation);

    const Program& program_;
    std::vector<std::vector<bool>> read_;  // of each buffer's channels
};

}  // namespace nmk

#endif  // NMK_UNREAD_H
