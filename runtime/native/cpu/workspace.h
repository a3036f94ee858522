// A program at one size of its inputs: where every buffer lies in one block of memory, and how convs tile.
#ifndef NMK_WORKSPACE_H
#define NMK_WORKSPACE_H

#include <memory>
#include <vector>

#include "aligned.h"
#include "conv.h"
#include "pool.h"
#include "program.h"

namespace nmk {

// Memory, plans and threads of one run at a time. Nothing is allocated while the size stays.
struct Workspace {
    Workspace(const Program& program, int threads);

    // Prepares for inputs of those sizes; does nothing if they are those of the last run.
    void fit(const Program& program, const std::vector<Shape>& sizes);

    View view(const Program& program, uint32_t value) const;
    float* scratch(int thread) const { return scratch_.get() + static_cast<size_t>(thread) * scratch_floats_; }

    Pool pool;
    int process;  // threads do not survive a fork: such a workspace is of no use to the child
    std::vector<ConvPlan> plans;  // one an operation
    std::vector<Aligned<uint32_t>> masks;  // of a row's valid lanes, for operations over images

private:
    void place(const Program& program);
    bool lay_strips(const Program& program, const std::vector<Shape>& sizes, int64_t extra);
    int64_t wanted_strip(const Program& program, const Operation& operation) const;

    std::vector<Shape> sizes_;  // of the inputs; empty until they fit
    std::vector<Shape> shapes_;
    std::vector<int64_t> strips_;
    std::vector<size_t> offsets_;
    Aligned<float> arena_, scratch_;
    size_t arena_floats_ = 0, scratch_floats_ = 0;
};

}  // namespace nmk

#endif  // NMK_WORKSPACE_H
