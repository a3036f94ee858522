// A program's operations -> loads, computations and stores, slots for their results, segments.

#include "stages.h"

#include <algorithm>

namespace nmk {

namespace {

constexpr size_t kMostStages = 1024;  // of a segment: links between them may grow with the square

bool by_rows(const Operation& operation) { return operation.kind() != Kind::moments; }

// Whether the second input is one value a channel, of which every row needs all.
bool is_gate(const Operation& operation, int input) {
    if (operation.kind() != Kind::pointwise || input != 1) return false;
    const auto mode = static_cast<Pointwise>(operation.param(0));
    return mode == Pointwise::gate || mode == Pointwise::gate_sum;
}

class Finder {
public:
    Finder(const Program& program, bool shared)
        : program_(program), shared_(shared), current_(program.buffer_channels.size(), kNone) {
        for (uint32_t i = 0; i < program.inputs; ++i) add(Role::load, i, nullptr, i);
        const std::vector<size_t> finished = last_writes();
        for (size_t i = 0; i <= program.operations.size(); ++i) {
            if (i > 0) {
                const Operation& operation = program.operations[i - 1];
                add(Role::compute, static_cast<uint32_t>(i - 1), &operation, operation.record.output);
            }
            for (size_t out = 0; out < finished.size(); ++out) {
                if (finished[out] == i) add(Role::store, static_cast<uint32_t>(out), nullptr, kNone);
            }
        }
        close();
    }

    Stages take() { return std::move(found_); }

private:
    // For every output, how many operations run until nothing writes it any more.
    std::vector<size_t> last_writes() const {
        std::vector<size_t> of_buffer(program_.buffer_channels.size(), 0), of_output;
        for (size_t i = 0; i < program_.operations.size(); ++i) {
            of_buffer[program_.values[program_.operations[i].record.output].buffer] = i + 1;
        }
        for (uint32_t output : program_.outputs) of_output.push_back(of_buffer[program_.values[output].buffer]);
        return of_output;
    }

    bool overlap(uint32_t a, uint32_t b) const {
        const ValueRecord &x = program_.values[a], &y = program_.values[b];
        return x.first < y.first + y.channels && y.first < x.first + x.channels;
    }

    bool covers(uint32_t value) const {
        const ValueRecord& record = program_.values[value];
        return record.channels == program_.buffer_channels[record.buffer];
    }

    uint32_t slot_of(uint32_t value) const { return current_[program_.values[value].buffer]; }

    // Whether the open segment reads or writes channels that a stage is about to write.
    bool in_use(uint32_t value) const {
        const uint32_t slot = slot_of(value);
        if (slot == kNone || covers(value)) return false;
        for (size_t i = begin_; i < found_.all.size(); ++i) {
            const Stage& stage = found_.all[i];
            if (stage.slot == slot && overlap(stage.value, value)) return true;
            for (const Read& read : stage.reads) {
                if (read.slot == slot && overlap(read.value, value)) return true;
            }
        }
        return false;
    }

    bool written_here(uint32_t value) const {
        for (size_t i = begin_; i < found_.all.size(); ++i) {
            if (found_.all[i].slot == slot_of(value)) return true;
        }
        return false;
    }

    void add(Role role, uint32_t index, const Operation* operation, uint32_t written) {
        const bool local = operation == nullptr || by_rows(*operation);
        bool apart = !local || found_.all.size() - begin_ >= kMostStages;
        apart = apart || (written != kNone && in_use(written));
        Stage stage{role, index, {}, kNone, kNone, false};
        if (role == Role::store) stage.reads[0].value = program_.outputs[index];
        if (operation != nullptr) {
            apart = apart || (shared_ && operation->kind() == Kind::bilinear);
            for (int i = 0; i < 2; ++i) {
                const uint32_t value = operation->record.inputs[i];
                stage.reads[i].value = value;
                apart = apart || (value != kNone && is_gate(*operation, i) && written_here(value));
            }
        }
        if (apart) close();
        for (Read& read : stage.reads) {
            if (read.value != kNone) link(read);
        }
        if (written != kNone) place(stage, written);
        found_.all.push_back(std::move(stage));
        if (!local) close(false);
    }

    void link(Read& read) {
        read.slot = slot_of(read.value);
        use(read.slot);
        for (size_t i = begin_; i < found_.all.size(); ++i) {
            Stage& writer = found_.all[i];
            if (writer.slot != read.slot || !overlap(writer.value, read.value)) continue;
            writer.read_here = true;
            read.writers.push_back(static_cast<uint32_t>(i));
        }
    }

    void place(Stage& stage, uint32_t value) {
        const uint32_t buffer = program_.values[value].buffer;
        if (current_[buffer] == kNone || covers(value)) {
            current_[buffer] = static_cast<uint32_t>(found_.slots.size());
            found_.slots.push_back({buffer, found_.segments.size(), found_.segments.size()});
        }
        stage.value = value, stage.slot = current_[buffer];
        use(stage.slot);
    }

    void use(uint32_t slot) { found_.slots[slot].last = found_.segments.size(); }

    void close(bool rows = true) {
        if (begin_ == found_.all.size()) return;
        found_.segments.push_back({begin_, found_.all.size(), rows});
        begin_ = found_.all.size();
    }

    const Program& program_;
    bool shared_;  // by several threads
    std::vector<uint32_t> current_;  // the slot of each buffer
    size_t begin_ = 0;               // the first stage of the open segment
    Stages found_;
};

}  // namespace

Stages find_stages(const Program& program, int threads) { return Finder(program, threads > 1).take(); }

}  // namespace nmk
