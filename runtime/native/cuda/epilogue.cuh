// A warp's sums -> residual, activation, halves, and their place in the output (or in a tile).
#ifndef NMK_CUDA_EPILOGUE_CUH
#define NMK_CUDA_EPILOGUE_CUH

#include "multiply.cuh"

namespace nmk_cuda {

struct Values {
    float v[kVector];
};

NMK_DEVICE Values load_floats(uint32_t at) {
    const Words low = load_shared_words(at), high = load_shared_words(at + kVectorBytes);
    Values values;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values.v[i] = float_bits(low.w[i]);
        values.v[4 + i] = float_bits(high.w[i]);
    }
    return values;
}

NMK_DEVICE void activate(Values& values, const Weights& weights) {
    if (weights.activation == Activation::kRelu) {
#pragma unroll
        for (float& v : values.v) v = larger(v, 0.0F);
    } else if (weights.activation == Activation::kLeakyRelu) {
#pragma unroll
        for (float& v : values.v) v = v < 0.0F ? weights.slope * v : v;
    }
}

template <class T>
NMK_DEVICE void add(T type, Values& values, const Words& halves) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) values.v[i] += float_of(type, halves.w[i / 2] >> (16 * (i % 2)));
}

// Residual and activation, in the layer's order.
template <class T>
NMK_DEVICE void finish(T type, Values& values, const Weights& weights, Residual place, const Words& residual) {
    if (place == Residual::kBeforeActivation) add(type, values, residual);
    activate(values, weights);
    if (place == Residual::kAfterActivation) add(type, values, residual);
}

template <class T>
NMK_DEVICE Words halves_of(T type, const Values& values) {
    Words words;
#pragma unroll
    for (int i = 0; i < 4; ++i) words.w[i] = pair_of(type, values.v[2 * i], values.v[2 * i + 1]);
    return words;
}

// Which 8 of the block's outputs a lane finishes: the same of every pixel.
template <class S>
NMK_DEVICE int own_vector() {
    return thread_index() % 32 % (S::outputs / kVector);
}

// Where the warp's sums pass through: [8 pixels][outputs] of fp32.
template <class S>
NMK_DEVICE uint32_t own_staging(uint32_t staging) {
    return staging + static_cast<uint32_t>(thread_index() / 32 * S::warp_staging_bytes);
}

// Where output `output` of the staged pixel `pixel` is.
template <class S>
NMK_DEVICE uint32_t staged_at(uint32_t own, int pixel, int output) {
    return own + static_cast<uint32_t>((pixel * S::staging_pitch + output) * 4);
}

// Stages the 8 pixels of mma tile n, once the warp is done with those before.
template <class S>
NMK_DEVICE void stage_pixels(const Sums<S>& sums, uint32_t own, int n) {
    const int lane = thread_index() % 32;
    sync_warp();
#pragma unroll
    for (int i = 0; i < S::m_tiles * 4; ++i) {
        const int pixel = lane % 4 * 2 + i % 2, output = i / 4 * 16 + lane / 4 + i % 4 / 2 * 8;
        store_shared_float(staged_at<S>(own, pixel, output), sums[i / 4][n][i % 4]);
    }
    sync_warp();
}

// Hands the lane's vector of outputs of pixel after pixel to finish(row, column, values, fetched), row and column
// within the block's tile. What fetch(row, column) loads for the next 8 pixels is under way meanwhile.
template <class S, class Fetch, class Finish>
NMK_DEVICE void for_each_vector(const Sums<S>& sums, uint32_t staging, const Fetch& fetch, const Finish& finish) {
    constexpr int kVectors = S::outputs / kVector, kPixels = 32 / kVectors < 8 ? 32 / kVectors : 8;
    constexpr int kPasses = 8 / kPixels;
    const int first = thread_index() % 32 / kVectors, first_row = thread_index() / 32 * S::rows;
    const bool has_pixel = first < 8;
    const uint32_t own = own_staging<S>(staging);
    Words fetched[2][kPasses];
    const auto fetch_tile = [&](int n) {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            if (has_pixel) fetched[n % 2][pass] = fetch(first_row + n / 2, n % 2 * 8 + pass * kPixels + first);
        }
    };
    fetch_tile(0);
#pragma unroll
    for (int n = 0; n < S::n_tiles; ++n) {
        if (n + 1 < S::n_tiles) fetch_tile(n + 1);
        stage_pixels<S>(sums, own, n);
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int pixel = pass * kPixels + first;
            if (has_pixel) {
                finish(first_row + n / 2, n % 2 * 8 + pixel,
                       load_floats(staged_at<S>(own, pixel, own_vector<S>() * kVector)), fetched[n % 2][pass]);
            }
        }
    }
}

// Where a tile's outputs go: rows are packed as [place in the shuffle][channel].
struct Destination {
    size_t first;          // of the tile's first pixel, at a lane's row
    size_t line, pixel;    // from one pixel before the shuffle to the next, down and across

    NMK_DEVICE size_t at(int row, int column) const {
        return first + static_cast<size_t>(row) * line + static_cast<size_t>(column) * pixel;
    }
};

NMK_DEVICE Destination destination_of(const Params& p, int image, int top, int left, int row) {
    const int channels = p.rows / (p.shuffle * p.shuffle), place = p.shuffle == 1 ? 0 : row / channels;
    const size_t pixel = static_cast<size_t>(p.shuffle) * static_cast<size_t>(channels);
    const size_t line = static_cast<size_t>(p.out_width) * pixel;  // of the shuffled image
    const size_t to_y = static_cast<size_t>(p.shuffle) * (static_cast<size_t>(image) * static_cast<size_t>(p.out_height) +
                                                          static_cast<size_t>(top)) +
                        static_cast<size_t>(place / p.shuffle);
    return {to_y * line + static_cast<size_t>(left) * pixel +
                static_cast<size_t>(place % p.shuffle) * static_cast<size_t>(channels) +
                static_cast<size_t>(row - place * channels),
            line * static_cast<size_t>(p.shuffle), pixel};
}

// The part of a tile that is stored: `rows` and `columns` from (top, left) on.
struct Part {
    int image, top, left, rows, columns;
};

template <class S>
NMK_DEVICE void store_vectors(const Sums<S>& sums, uint32_t staging, const Params& p, const Weights& weights,
                              const Part& part, int row) {
    using T = typename S::Type;
    const Destination to = destination_of(p, part.image, part.top, part.left, row);
    const int rows = row < p.rows ? part.rows : 0;
    for_each_vector<S>(
        sums, staging,
        [&](int y, int x) {
            const bool wanted = p.residual_place != Residual::kNone && y < rows && x < part.columns;
            return wanted ? load_global_words(p.residual + to.at(y, x)) : Words{};
        },
        [&](int y, int x, Values values, const Words& residual) {
            if (y >= rows || x >= part.columns) return;
            finish(T{}, values, weights, p.residual_place, residual);
            store_global_words(p.output + to.at(y, x), halves_of(T{}, values));
        });
}

// Where an image's channels do not fill vectors: value by value.
template <class S>
NMK_DEVICE void store_values(const Sums<S>& sums, uint32_t staging, const Params& p, const Weights& weights,
                             const Part& part, int first_row) {
    const typename S::Type type{};
    const uint32_t own = own_staging<S>(staging);
#pragma unroll
    for (int n = 0; n < S::n_tiles; ++n) {
        stage_pixels<S>(sums, own, n);
#pragma unroll 1
        for (int i = thread_index() % 32; i < 8 * S::outputs; i += 32) {
            const int pixel = i / S::outputs, output = i % S::outputs, row = first_row + output;
            const int y = thread_index() / 32 * S::rows + n / 2, x = n % 2 * 8 + pixel;
            if (row >= p.rows || y >= part.rows || x >= part.columns) continue;
            const size_t at = destination_of(p, part.image, part.top, part.left, row).at(y, x);
            Values value{{float_bits(load_shared_word(staged_at<S>(own, pixel, output)))}};
            Words residual{};
            if (p.residual_place != Residual::kNone) residual.w[0] = load_global_half(p.residual + at);
            finish(type, value, weights, p.residual_place, residual);
            store_global_half(p.output + at, static_cast<uint16_t>(halves_of(type, value).w[0]));
        }
    }
}

// Finishes and stores a part of a tile; `first_row` is the first of the block's outputs.
template <class S>
NMK_DEVICE void store_part(const Sums<S>& sums, uint32_t staging, const Params& p, const Weights& weights,
                           const Part& part, int first_row) {
    if (p.rows / (p.shuffle * p.shuffle) % kVector == 0) {
        store_vectors<S>(sums, staging, p, weights, part, first_row + own_vector<S>() * kVector);
    } else {
        store_values<S>(sums, staging, p, weights, part, first_row);
    }
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_EPILOGUE_CUH
