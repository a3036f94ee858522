// A warp's sums -> bias, residual, activation, halves, and their place in the output (or in a tile).
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

NMK_DEVICE void add_bias(Values& values, const float* bias) {
    const Words low = load_global_words(bias), high = load_global_words(bias + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        values.v[i] += float_bits(low.w[i]);
        values.v[4 + i] += float_bits(high.w[i]);
    }
}

NMK_DEVICE float activated(float v, const Weights& weights) {
    if (weights.activation == Activation::kNone || !(v < 0.0F)) return v;
    return weights.activation == Activation::kRelu ? 0.0F : weights.slope * v;
}

template <class T>
NMK_DEVICE Words halves_of(T type, const Values& values) {
    Words words;
#pragma unroll
    for (int i = 0; i < 4; ++i) words.w[i] = pair_of(type, values.v[2 * i], values.v[2 * i + 1]);
    return words;
}

// Hands every vector of 8 outputs of every pixel of the warp's tile to finish(row, column, vector, values),
// row and column within the block's tile, through the warp's staging memory: 8 pixels at a time.
template <class S, class Finish>
NMK_DEVICE void for_each_vector(const Sums<S>& sums, uint32_t staging, const Finish& finish) {
    constexpr int kVectors = S::outputs / kVector;
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    const uint32_t own = staging + static_cast<uint32_t>(warp * S::warp_staging_bytes);
#pragma unroll
    for (int n = 0; n < S::n_tiles; ++n) {
        sync_warp();
#pragma unroll
        for (int i = 0; i < S::m_tiles * 4; ++i) {
            const int pixel = lane % 4 * 2 + i % 2, output = i / 4 * 16 + lane / 4 + i % 4 / 2 * 8;
            store_shared_float(own + static_cast<uint32_t>((pixel * S::staging_pitch + output) * 4),
                               sums[i / 4][n][i % 4]);
        }
        sync_warp();
        for (int i = lane; i < 8 * kVectors; i += 32) {
            const int pixel = i / kVectors, vector = i % kVectors;
            const int at = (pixel * S::staging_pitch + vector * kVector) * 4;
            finish(warp * S::rows + n / 2, n % 2 * 8 + pixel, vector, load_floats(own + static_cast<uint32_t>(at)));
        }
    }
}

// Where row `row` of pixel (y, x) of an image goes: rows are packed as [place in the shuffle][channel].
NMK_DEVICE size_t output_at(const Params& p, int image, int y, int x, int row) {
    const int channels = p.rows / (p.shuffle * p.shuffle);
    const int place = p.shuffle == 1 ? 0 : row / channels;
    const size_t high = static_cast<size_t>(p.out_height) * static_cast<size_t>(p.shuffle);
    const size_t wide = static_cast<size_t>(p.out_width) * static_cast<size_t>(p.shuffle);
    const size_t to_y = static_cast<size_t>(image) * high + static_cast<size_t>(y * p.shuffle + place / p.shuffle);
    const size_t to_x = static_cast<size_t>(x * p.shuffle + place % p.shuffle);
    return (to_y * wide + to_x) * static_cast<size_t>(channels) + static_cast<size_t>(row - place * channels);
}

template <class T>
NMK_DEVICE void finish_value(T type, float& v, const Params& p, const Weights& weights, uint32_t residual) {
    if (p.residual_place == Residual::kBeforeActivation) v += float_of(type, residual);
    v = activated(v, weights);
    if (p.residual_place == Residual::kAfterActivation) v += float_of(type, residual);
}

// Finishes 8 outputs of a pixel from `row` on and stores them.
template <class T>
NMK_DEVICE void store_vector(T type, const Params& p, const Weights& weights, int image, int y, int x, int row,
                             Values values) {
    add_bias(values, weights.bias + row);
    const bool residual = p.residual_place != Residual::kNone;
    if (p.rows / (p.shuffle * p.shuffle) % kVector == 0) {
        if (row >= p.rows) return;
        const size_t at = output_at(p, image, y, x, row);
        const Words more = residual ? load_global_words(p.residual + at) : Words{};
#pragma unroll
        for (int i = 0; i < kVector; ++i) finish_value(type, values.v[i], p, weights, more.w[i / 2] >> (16 * (i % 2)));
        store_global_words(p.output + at, halves_of(type, values));
        return;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        if (row + i >= p.rows) return;
        const size_t at = output_at(p, image, y, x, row + i);
        finish_value(type, values.v[i], p, weights, residual ? load_global_half(p.residual + at) : 0U);
        store_global_half(p.output + at, static_cast<uint16_t>(pair_of(type, values.v[i], 0.0F)));
    }
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_EPILOGUE_CUH
