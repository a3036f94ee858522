// Which channels of each buffer are read, found from the last operation to the first.

#include "unread.h"

#include <algorithm>

namespace nmk {

Readers::Readers(const Program& program) : program_(program) {
    for (const uint32_t channels : program.buffer_channels) read_.emplace_back(channels);
    for (const uint32_t output : program.outputs) {
        for (uint32_t c = 0; c < program.values[output].channels; ++c) mark(output, c);
    }
}

bool Readers::any_of(const Operation& operation) const {
    const uint32_t output = operation.record.output;
    uint32_t c = 0;
    while (c < program_.values[output].channels && !is_read(output, c)) ++c;
    return c < program_.values[output].channels;
}

std::vector<int> Readers::outputs_of(const Operation& operation) const {
    const OperationRecord& record = operation.record;
    const uint32_t channels = program_.values[record.output].channels, phases = record.shuffle * record.shuffle;
    // Groups have equally many outputs each, and a pixel shuffle is stored whole.
    const bool all = record.params[kGroups] != 1 || phases != 1;
    std::vector<int> found;
    if (!any_of(operation)) return found;
    for (uint32_t c = 0; c < channels * phases; ++c) {
        if (all || is_read(record.output, c)) found.push_back(static_cast<int>(c));
    }
    return found;
}

void Readers::add(const Operation& operation, const Conv* conv) {
    if (conv != nullptr) {
        mark_inputs(operation, *conv);
    } else {
        mark_channels(operation);
    }
}

bool Readers::is_read(uint32_t value, uint32_t channel) const {
    const ValueRecord& own = program_.values[value];
    return read_[own.buffer][own.first + channel];
}

void Readers::mark(uint32_t value, uint32_t channel) {
    const ValueRecord& own = program_.values[value];
    read_[own.buffer][own.first + channel] = true;
}

void Readers::mark_inputs(const Operation& operation, const Conv& conv) {
    const OperationRecord& record = operation.record;
    for (size_t group = 0; group < conv.parts.size(); ++group) {
        for (const int input : conv.parts[group].used) {
            mark(record.inputs[0], static_cast<uint32_t>(static_cast<int>(group) * conv.inputs + input));
        }
    }
    if (record.inputs[1] == kNone) return;
    for (const int output : outputs_of(operation)) mark(record.inputs[1], static_cast<uint32_t>(output));
}

// All but a convolution keep channels apart; a single one serves all of the others.
void Readers::mark_channels(const Operation& operation) {
    const OperationRecord& record = operation.record;
    const uint32_t channels = program_.values[record.output].channels;
    // A bilinear step takes nothing but a size from its second input.
    const bool second = record.inputs[1] != kNone && operation.kind() != Kind::bilinear;
    for (const uint32_t input : {record.inputs[0], second ? record.inputs[1] : record.inputs[0]}) {
        const uint32_t own = program_.values[input].channels;
        const uint32_t times = std::max(own / channels, uint32_t{1});  // before a pixel shuffle
        for (uint32_t c = 0; c < own; ++c) {
            if (own < channels || is_read(record.output, c / times)) mark(input, c);
        }
    }
}

}  // namespace nmk
