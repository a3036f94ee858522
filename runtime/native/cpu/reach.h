// An operation -> which rows of an input its output rows need: what schedules are made of.
#ifndef NMK_REACH_H
#define NMK_REACH_H

#include "program.h"

namespace nmk {

struct Reach {
    enum class Form { window, stretch, size_only };
    Form form = Form::window;
    int64_t stride = 1, pad = 0, span = 1;  // of a window
    int64_t factor = 1;                     // by which what the window gives is enlarged
    int64_t in = 0, out = 0;                // heights
    bool align_corners = false;

    // How many input rows, counted from the top, output rows below `stop` need. Goes on below zero
    // for a `stop` above the image, so that stages can be started one after the other.
    int64_t before(int64_t stop) const;

    // The first input row that output row y, or any row under it, needs.
    int64_t first(int64_t y) const;
};

// For input 0 or 1 of an operation that works by rows.
Reach reach_of(const Operation& operation, int input, int64_t in, int64_t out);

}  // namespace nmk

#endif  // NMK_REACH_H
