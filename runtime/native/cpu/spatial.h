// Operations that move pixels, on strips: rows of the output are computed independently.
#ifndef NMK_SPATIAL_H
#define NMK_SPATIAL_H

#include "conv.h"
#include "rows.h"

namespace nmk {

// Each computes a thread's share of some output rows; `lanes` is the strips' L. `scratch` is the
// thread's own: so many floats for each column of the output.
constexpr int64_t kColumnFloats = 8;

void pixel_shuffle(const View& in, const View& out, int factor, bool turned, int lanes, Rows rows);
void nearest(const View& in, const View& out, int factor, int lanes, Rows rows);
void bilinear(const View& in, const View& out, bool align_corners, int lanes, Rows rows, float* scratch);
void max_pool(const View& in, const View& out, const int32_t* params, int lanes, Rows rows);
void pad(const View& in, const View& out, const int32_t* params, int lanes, Rows rows, float* scratch);

// A row of strips of one width to strips of another.
void restrip(const float* from, int64_t from_strip, float* to, int64_t to_strip, int64_t width, int lanes);

// Two rows, or columns, of an image of `in`, of which bilinear makes one of an image of `out`.
struct Blend {
    int64_t low, high;
    float weight;  // of high
};

Blend blend(int64_t at, int64_t in, int64_t out, bool align_corners);

// An ordinary image [channels][height][width] to strips and back, likewise; turned: the image has the
// view's columns for rows.
void to_strips(const float* image, const View& out, bool turned, int lanes, Rows rows);
void from_strips(const View& in, float* image, bool turned, int lanes, Rows rows);

}  // namespace nmk

#endif  // NMK_SPATIAL_H
