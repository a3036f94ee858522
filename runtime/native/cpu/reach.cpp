// Kernels, strides and factors -> rows of an input that some rows of an output need.

#include "reach.h"

#include <algorithm>

#include "spatial.h"

namespace nmk {

namespace {

constexpr int64_t kFarAbove = int64_t{1} << 40;

int64_t floor_div(int64_t value, int64_t by) {
    return value >= 0 ? value / by : -((-value + by - 1) / by);
}

}  // namespace

int64_t Reach::before(int64_t stop) const {
    int64_t rows = 0;
    switch (form) {
        case Form::window: rows = floor_div(stop - 1, factor) * stride - pad + span; break;
        case Form::stretch:
            rows = stop > 0 ? blend(stop - 1, in, out, align_corners).high + 1 : floor_div(stop * in, out);
            break;
        case Form::size_only: return -kFarAbove;
    }
    return std::clamp(rows, -kFarAbove, in);
}

int64_t Reach::first(int64_t y) const {
    int64_t row = 0;
    switch (form) {
        case Form::window: row = y / factor * stride - pad; break;
        case Form::stretch: row = y < out ? blend(y, in, out, align_corners).low : in; break;
        case Form::size_only: return in;
    }
    return std::clamp<int64_t>(row, 0, in);
}

Reach reach_of(const Operation& operation, int input, int64_t in, int64_t out) {
    Reach reach;
    reach.in = in, reach.out = out;
    const int32_t* p = operation.record.params;
    switch (operation.kind()) {
        case Kind::conv2d:
            if (input == 1) break;  // the residual: row by row
            reach.stride = p[kStrideY], reach.pad = p[kPadTop];
            reach.span = int64_t{p[kKernelY] - 1} * p[kDilationY] + 1;
            reach.factor = operation.record.shuffle;
            break;
        case Kind::max_pool:
            reach.stride = p[kStrideY], reach.pad = p[kPadTop], reach.span = p[kKernelY];
            break;
        case Kind::pixel_shuffle:
        case Kind::nearest: reach.factor = p[0]; break;
        case Kind::bilinear:
            reach.form = input == 0 ? Reach::Form::stretch : Reach::Form::size_only;
            reach.align_corners = p[0] != 0;
            break;
        case Kind::pad: {
            // Rows around the image are found inside it: at most as far from its edge as they are.
            const int64_t top = std::max(p[kTop], 0), bottom = std::max(p[kBottom], 0);
            reach.pad = p[kTop] + 2 * bottom, reach.span = 2 * (top + bottom) + 1;
            break;
        }
        case Kind::pointwise:
        case Kind::moments: break;
    }
    return reach;
}

}  // namespace nmk
