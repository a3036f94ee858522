// A program at one size of its inputs: schedules, where every slot lies in memory, tile plans.
#ifndef NMK_WORKSPACE_H
#define NMK_WORKSPACE_H

#include <atomic>
#include <memory>
#include <vector>

#include "aligned.h"
#include "conv.h"
#include "schedule.h"

namespace nmk {

// Memory and plans of one run at a time. Nothing is allocated while the size stays,
// whatever the level.
struct Workspace {
    Workspace(const Program& program, int count);

    // Prepares for inputs of those sizes; does nothing if they are those of the last run.
    void fit(const Program& program, const std::vector<Shape>& sizes);

    // A value as a thread sees it: slots within a segment are each thread's own, unless all share its bands.
    View view(const Program& program, uint32_t value, uint32_t slot, int thread) const;
    bool whole(uint32_t slot) const { return places_[slot].whole; }
    float* scratch(int thread) const { return scratch_.get() + static_cast<size_t>(thread) * scratch_floats_; }

    // The first rows of a stage as part `part` > 0 computed them, kept for the part above it.
    float* edge(size_t segment, int part, size_t stage) const {
        return arena_.get() + edges_at_ + static_cast<size_t>(part - 1) * edge_floats_[segment] +
               edge_offsets_[stage];
    }

    // Rows computed so far of each stage of the segment, and rows wanted, of one thread.
    int64_t* done(int thread) { return counts_.data() + static_cast<size_t>(2 * thread) * most_stages_; }
    int64_t* wanted(int thread) { return done(thread) + most_stages_; }
    // Rows of each stage of the segment that a part has computed, for the part above it to see.
    std::atomic<int64_t>* computed(int part) { return computed_.get() + static_cast<size_t>(part) * most_stages_; }

    int threads;
    Stages stages;
    std::vector<Schedule> schedules;  // one a segment
    std::vector<std::vector<ConvPlan>> plans;  // one a packing of an operation
    std::vector<Aligned<uint32_t>> masks;  // of a row's valid lanes, for operations over images
    std::vector<double> seconds;  // [thread][operation], of one run

private:
    struct Place {
        bool whole;
        int64_t held;
        size_t offset;
    };

    void schedule(const Program& program);
    Work work_of(const Program& program, const Stage& stage) const;
    size_t row_floats(const Program& program, uint32_t buffer) const;
    void choose_held();
    void place(const Program& program);
    size_t place_whole(const std::vector<size_t>& sizes);
    bool lay_strips(const Program& program, const std::vector<Shape>& sizes, int64_t extra, bool apart);
    int64_t wanted_strip(const Program& program, const Operation& operation) const;

    std::vector<Shape> sizes_;  // of the inputs; empty until they fit
    std::vector<Shape> shapes_;
    std::vector<int64_t> strips_;
    std::vector<Place> places_;  // one a slot
    std::vector<size_t> edge_offsets_, edge_floats_;  // of stages; of a part of each segment
    std::vector<int64_t> counts_;
    std::unique_ptr<std::atomic<int64_t>[]> computed_;
    Aligned<float> arena_, scratch_;
    size_t arena_floats_ = 0, scratch_floats_ = 0, most_stages_ = 0, thread_floats_ = 0, edges_at_ = 0;
};

}  // namespace nmk

#endif  // NMK_WORKSPACE_H
