// An operation and some rows -> those rows of its output.
#ifndef NMK_STEPS_H
#define NMK_STEPS_H

#include "conv.h"
#include "program.h"
#include "rows.h"

namespace nmk {

struct Step {
    const Operation* operation;
    const ConvPlan* plans;  // of a convolution's packings
    int level;
    const Kernels* kernels;
    View input, second, output;
    float* scratch;
};

// Computes a thread's share of some output rows; not for moments, which have no rows.
void compute_rows(const Step& step, Rows rows);

// The mean or standard deviation of a channel, under the mask of a row's valid lanes.
float moment(const Step& step, int64_t channel, const uint32_t* mask);

}  // namespace nmk

#endif  // NMK_STEPS_H
