// Strips in -> strips out, for operations that move pixels; plain C++ for every ISA.

#include "spatial.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

namespace nmk {

namespace {

// Where pixel x of a row stands.
int64_t place(const View& view, int64_t x, int lanes) { return x % view.strip * lanes + x / view.strip; }

const float* row_of(const View& view, int64_t channel, int64_t y) {
    return view.data + channel * view.plane + view.row_at(y);
}

float* row_to(const View& view, int64_t channel, int64_t y) {
    return view.data + channel * view.plane + view.row_at(y);
}

struct Column {
    int64_t left, right, to;
    float weight;  // of right
};

// The pixel of 0..size that stands at `at`, which may lie outside; -1 for a zero.
int64_t inside(int64_t at, int64_t size, Border border) {
    if (at >= 0 && at < size) return at;
    switch (border) {
        case Border::reflect: return at < 0 ? -at : 2 * (size - 1) - at;
        case Border::replicate: return at < 0 ? 0 : size - 1;
        case Border::zeros: return -1;
    }
    return -1;
}

static_assert(sizeof(Column) <= kColumnFloats * sizeof(float));

// Several rows at a time, which are beside each other in the image.
void from_turned(const View& in, float* image, int lanes, Rows rows) {
    constexpr int64_t most = 16;
    const int64_t blocks = (rows.stop - rows.first + most - 1) / most * in.channels;
    for (int64_t block = rows.begin(blocks); block < rows.end(blocks); ++block) {
        const int64_t channel = block % in.channels, first = rows.first + block / in.channels * most;
        const int64_t count = std::min(most, rows.stop - first);
        const float* from[most];
        for (int64_t i = 0; i < count; ++i) from[i] = row_of(in, channel, first + i);
        for (int64_t x = 0; x < in.width; ++x) {
            float* to = image + (channel * in.width + x) * in.height + first;
            const int64_t at = place(in, x, lanes);
            for (int64_t i = 0; i < count; ++i) to[i] = from[i][at];
        }
    }
}

}  // namespace

Blend blend(int64_t at, int64_t in, int64_t out, bool align_corners) {
    float position = 0.0f;
    if (align_corners) {
        const float scale = out > 1 ? static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.0f;
        position = scale * static_cast<float>(at);
    } else {
        const float scale = static_cast<float>(in) / static_cast<float>(out);
        position = std::max(scale * (static_cast<float>(at) + 0.5f) - 0.5f, 0.0f);
    }
    const int64_t low = std::min(static_cast<int64_t>(position), in - 1);
    return {low, std::min(low + 1, in - 1), position - static_cast<float>(low)};
}

// Factors stretch a strip as they stretch the image, so that lanes stay lanes; where the output is part
// of a concatenation that another layout was chosen for, pixels go one by one.
void pixel_shuffle(const View& in, const View& out, int factor, bool turned, int lanes, Rows rows) {
    const int64_t down = turned ? 1 : factor, across = turned ? factor : 1;  // from a channel's phase to the next
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        float* to = row_to(out, channel, y);
        for (int part = 0; part < factor; ++part) {
            const int64_t source = channel * factor * factor + y % factor * down + part * across;
            const float* from = row_of(in, source, y / factor);
            if (out.strip != in.strip * factor) {
                for (int64_t x = 0; x < in.width; ++x) to[place(out, x * factor + part, lanes)] = from[place(in, x, lanes)];
                continue;
            }
            for (int64_t s = 0; s < in.strip; ++s) {
                std::copy_n(from + s * lanes, lanes, to + (s * factor + part) * lanes);
            }
        }
    });
}

void nearest(const View& in, const View& out, int factor, int lanes, Rows rows) {
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        const float* from = row_of(in, channel, y / factor);
        float* to = row_to(out, channel, y);
        if (out.strip != in.strip * factor) {
            for (int64_t x = 0; x < out.width; ++x) to[place(out, x, lanes)] = from[place(in, x / factor, lanes)];
            return;
        }
        for (int64_t s = 0; s < out.strip; ++s) std::copy_n(from + s / factor * lanes, lanes, to + s * lanes);
    });
}

void bilinear(const View& in, const View& out, bool align_corners, int lanes, Rows rows, float* scratch) {
    Column* const columns = reinterpret_cast<Column*>(scratch);
    for (int64_t x = 0; x < out.width; ++x) {
        const Blend across = blend(x, in.width, out.width, align_corners);
        new (columns + x) Column{place(in, across.low, lanes), place(in, across.high, lanes),
                                 place(out, x, lanes), across.weight};
    }
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        const Blend down = blend(y, in.height, out.height, align_corners);
        const float* top = row_of(in, channel, down.low);
        const float* bottom = row_of(in, channel, down.high);
        float* to = row_to(out, channel, y);
        for (int64_t x = 0; x < out.width; ++x) {
            const Column& column = columns[x];
            const float upper = top[column.left] + column.weight * (top[column.right] - top[column.left]);
            const float lower = bottom[column.left] + column.weight * (bottom[column.right] - bottom[column.left]);
            to[column.to] = upper + down.weight * (lower - upper);
        }
    });
}

void pad(const View& in, const View& out, const int32_t* p, int lanes, Rows rows, float* scratch) {
    const auto border = static_cast<Border>(p[kBorder]);
    int64_t* const columns = reinterpret_cast<int64_t*>(scratch);  // where in the row it stands, or -1
    for (int64_t x = 0; x < out.width; ++x) {
        const int64_t from = inside(x - p[kLeft], in.width, border);
        new (columns + x) int64_t{from < 0 ? -1 : place(in, from, lanes)};
    }
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        const int64_t from_row = inside(y - p[kTop], in.height, border);
        const float* from = from_row < 0 ? nullptr : row_of(in, channel, from_row);
        float* to = row_to(out, channel, y);
        for (int64_t x = 0; x < out.width; ++x) {
            const int64_t column = columns[x];
            to[place(out, x, lanes)] = from == nullptr || column < 0 ? 0.0f : from[column];
        }
    });
}

void restrip(const float* from, int64_t from_strip, float* to, int64_t to_strip, int64_t width, int lanes) {
    for (int64_t x = 0; x < width; ++x) {
        to[x % to_strip * lanes + x / to_strip] = from[x % from_strip * lanes + x / from_strip];
    }
}

void max_pool(const View& in, const View& out, const int32_t* p, int lanes, Rows rows) {
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        const int64_t top = std::max<int64_t>(y * p[kStrideY] - p[kPadTop], 0);
        const int64_t bottom = std::min(y * p[kStrideY] - p[kPadTop] + p[kKernelY], in.height);
        float* to = row_to(out, channel, y);
        for (int64_t x = 0; x < out.width; ++x) {
            const int64_t left = std::max<int64_t>(x * p[kStrideX] - p[kPadLeft], 0);
            const int64_t right = std::min(x * p[kStrideX] - p[kPadLeft] + p[kKernelX], in.width);
            float most = -std::numeric_limits<float>::infinity();
            for (int64_t from = left; from < right; ++from) {
                const int64_t column = place(in, from, lanes);
                for (int64_t row = top; row < bottom; ++row) {
                    const float value = row_of(in, channel, row)[column];
                    most = value > most || std::isnan(value) ? value : most;
                }
            }
            to[place(out, x, lanes)] = most;
        }
    });
}

void to_strips(const float* image, const View& out, bool turned, int lanes, Rows rows) {
    if (turned) {
        rows.each(out.channels, [&](int64_t channel, int64_t y) {
            const float* from = image + channel * out.height * out.width + y;
            float* to = row_to(out, channel, y);
            for (int64_t x = 0; x < out.width; ++x) to[place(out, x, lanes)] = from[x * out.height];
        });
        return;
    }
    rows.each(out.channels, [&](int64_t channel, int64_t y) {
        const float* from = image + (channel * out.height + y) * out.width;
        float* to = row_to(out, channel, y);
        for (int lane = 0; lane < lanes; ++lane) {
            const int64_t start = lane * out.strip;
            const int64_t count = std::min(out.strip, out.width - start);
            for (int64_t s = 0; s < count; ++s) to[s * lanes + lane] = from[start + s];
        }
    });
}

void from_strips(const View& in, float* image, bool turned, int lanes, Rows rows) {
    if (turned) {
        from_turned(in, image, lanes, rows);
        return;
    }
    rows.each(in.channels, [&](int64_t channel, int64_t y) {
        const float* from = row_of(in, channel, y);
        float* to = image + (channel * in.height + y) * in.width;
        for (int lane = 0; lane < lanes; ++lane) {
            const int64_t start = lane * in.strip;
            const int64_t count = std::min(in.strip, in.width - start);
            for (int64_t s = 0; s < count; ++s) to[start + s] = from[s * lanes + lane];
        }
    });
}

}  // namespace nmk
