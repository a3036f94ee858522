// A program -> its stages in order, who needs what of whom, and which of them may run interleaved.
#ifndef NMK_STAGES_H
#define NMK_STAGES_H

#include <vector>

#include "program.h"

namespace nmk {

enum class Role { load, compute, store };

// What a stage reads, and the earlier stages of its own segment that write some of it.
struct Read {
    uint32_t value = kNone, slot = kNone;
    std::vector<uint32_t> writers;
};

// An input brought into strips, an operation, or an output taken out of strips.
struct Stage {
    Role role;
    uint32_t index;  // of the input, the operation or the output
    Read reads[2];
    uint32_t value = kNone, slot = kNone;  // what it writes; none for a store
    bool read_here = false;                // by a stage of its own segment
};

// One life of a buffer: a program may overwrite a buffer, which then is another slot.
struct Slot {
    uint32_t buffer;
    size_t first, last;  // segments in which it is written or read
};

struct Segment {
    size_t first, stop;  // stages
    bool by_rows;        // false: one operation that needs its whole input (moments)
};

struct Stages {
    std::vector<Stage> all;
    std::vector<Slot> slots;
    std::vector<Segment> segments;
};

// Cuts a program where rows of a result need more than some rows of what came before, and where a
// stage would overwrite what others of its segment read or write. For several threads also where a
// small picture is enlarged: a row of it stands for many, and parts of the image that wait for so many
// rows of each other leave nothing to do at once.
Stages find_stages(const Program& program, int threads);

}  // namespace nmk

#endif  // NMK_STAGES_H
