// One step (64 input channels at one kernel position) in shared memory -> added to a warp's sums.
//
// Weights are A, [outputs][channels], and lie in the order of a warp's registers; pixels are B,
// [channels][pixels], read in place: a kernel position is an offset into the input tile.
#ifndef NMK_CUDA_MULTIPLY_CUH
#define NMK_CUDA_MULTIPLY_CUH

#include "tile.cuh"

namespace nmk_cuda {

template <class S>
using Sums = float[S::m_tiles][S::n_tiles][4];

// Of an mma tile of 8 pixels, the first pixel's offset from the first of the warp's.
template <class S>
NMK_DEVICE constexpr uint32_t tile_offset(int n) {
    return static_cast<uint32_t>(((n / 2) * S::stride * S::input_columns + (n % 2) * 8 * S::stride) * kPixelBytes);
}

// A lane's view of the input tile at one kernel position.
struct Pixels {
    uint32_t first;     // of the lane's pixel in mma tile 0
    uint32_t exchange;  // by which the offset of a vector of that pixel is changed
};

template <class S>
NMK_DEVICE Pixels pixels_of(uint32_t input, int pixel, int row, int ky, int kx) {
    const int column = pixel * S::stride + kx;
    const int place = (row * S::stride + ky) * S::input_columns + column;
    return {input + static_cast<uint32_t>(place * kPixelBytes),
            static_cast<uint32_t>(((column / S::stride) & 7) * kVectorBytes)};
}

template <class S>
NMK_DEVICE Words weights_of(uint32_t weights, int fragment) {
    const int lane = thread_index() % 32;
    return load_shared_words(weights + static_cast<uint32_t>(fragment * kFragmentBytes + lane * kVectorBytes));
}

// Channels 32 * half to 32 * half + 31 of mma tile n: what two dense products or a sparse one read.
template <class S>
NMK_DEVICE void load_pixels(uint32_t (&b)[4], const Pixels& pixels, int half, int n) {
    const int matrix = thread_index() % 32 / 8;
    const uint32_t vector = static_cast<uint32_t>((half * 4 + matrix) * kVectorBytes);
    load_matrices(b, pixels.first + (vector ^ pixels.exchange) + tile_offset<S>(n));
}

template <class S>
NMK_DEVICE void multiply_dense(Sums<S>& sums, const Pixels& pixels, uint32_t weights) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        Words a[2][S::m_tiles];
        uint32_t b[2][4];
        load_pixels<S>(b[0], pixels, half, 0);
#pragma unroll
        for (int i = 0; i < 2 * S::m_tiles; ++i) {
            a[i / S::m_tiles][i % S::m_tiles] = weights_of<S>(weights, half * 2 * S::m_tiles + i);
        }
#pragma unroll
        for (int n = 0; n < S::n_tiles; ++n) {
            if (n + 1 < S::n_tiles) load_pixels<S>(b[(n + 1) % 2], pixels, half, n + 1);
            const uint32_t(&now)[4] = b[n % 2];
#pragma unroll
            for (int m = 0; m < S::m_tiles; ++m) {
                multiply_add(typename S::Type{}, sums[m][n], a[0][m], now[0], now[1]);
            }
#pragma unroll
            for (int m = 0; m < S::m_tiles; ++m) {
                multiply_add(typename S::Type{}, sums[m][n], a[1][m], now[2], now[3]);
            }
        }
    }
}

template <class S, int half>
NMK_DEVICE void multiply_sparse_half(Sums<S>& sums, const Pixels& pixels, uint32_t weights,
                                     const uint32_t (&metadata)[S::m_tiles]) {
    Words a[S::m_tiles];
    uint32_t b[2][4];
    load_pixels<S>(b[0], pixels, half, 0);
#pragma unroll
    for (int m = 0; m < S::m_tiles; ++m) a[m] = weights_of<S>(weights, half * S::m_tiles + m);
#pragma unroll
    for (int n = 0; n < S::n_tiles; ++n) {
        if (n + 1 < S::n_tiles) load_pixels<S>(b[(n + 1) % 2], pixels, half, n + 1);
#pragma unroll
        for (int m = 0; m < S::m_tiles; ++m) {
            multiply_add_sparse<half>(typename S::Type{}, sums[m][n], a[m], b[n % 2], metadata[m]);
        }
    }
}

// Lanes 0 and 1 of each four hold the metadata of the chunk's first half, lanes 2 and 3 of the second.
template <class S>
NMK_DEVICE void multiply_sparse(Sums<S>& sums, const Pixels& pixels, uint32_t weights) {
    uint32_t metadata[S::m_tiles];
#pragma unroll
    for (int m = 0; m < S::m_tiles; ++m) {
        const int at = 2 * S::m_tiles * kFragmentBytes + m * kMetadataBytes + thread_index() % 32 * 4;
        metadata[m] = load_shared_word(weights + static_cast<uint32_t>(at));
    }
    multiply_sparse_half<S, 0>(sums, pixels, weights, metadata);
    multiply_sparse_half<S, 1>(sums, pixels, weights, metadata);
}

// A lane's four channels of 16: 2t, 2t + 1, 2t + 8 and 2t + 9, t = lane % 4; a byte each, twice the channel.
template <class S>
NMK_DEVICE void multiply_gathered(Sums<S>& sums, const Pixels& pixels, uint32_t weights, int gathers) {
    const uint32_t places = weights + static_cast<uint32_t>(gathers * S::m_tiles * kFragmentBytes);
    for (int block = 0; block < gathers; ++block) {
        const int lane_place = block * kGatherBytes + thread_index() % 4 * 4;
        const uint32_t channels = load_shared_word(places + static_cast<uint32_t>(lane_place));
        uint32_t at[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) at[i] = pixels.first + ((channels >> (8 * i) & 0xFF) ^ pixels.exchange);
        Words a[S::m_tiles];
#pragma unroll
        for (int m = 0; m < S::m_tiles; ++m) a[m] = weights_of<S>(weights, block * S::m_tiles + m);
#pragma unroll
        for (int n = 0; n < S::n_tiles; ++n) {
            const uint32_t offset = tile_offset<S>(n);
            const uint32_t b0 = load_shared_half(at[0] + offset) | load_shared_half(at[1] + offset) << 16;
            const uint32_t b1 = load_shared_half(at[2] + offset) | load_shared_half(at[3] + offset) << 16;
#pragma unroll
            for (int m = 0; m < S::m_tiles; ++m) multiply_add(typename S::Type{}, sums[m][n], a[m], b0, b1);
        }
    }
}

// Adds one step: kernel position (ky, kx) of the input tile times the step's weights.
template <class S>
NMK_DEVICE void multiply(Sums<S>& sums, uint32_t input, uint32_t weights, int gathers, int ky, int kx) {
    const int lane = thread_index() % 32, row = thread_index() / 32 * S::rows;
    if constexpr (S::kind == Kind::kGathered) {
        multiply_gathered<S>(sums, pixels_of<S>(input, lane / 4, row, ky, kx), weights, gathers);
    } else {
        const Pixels pixels = pixels_of<S>(input, lane % 8, row, ky, kx);
        if constexpr (S::kind == Kind::kSparse) {
            multiply_sparse<S>(sums, pixels, weights);
        } else {
            multiply_dense<S>(sums, pixels, weights);
        }
    }
}

// Sums begin as the bias of their outputs; `bias` is that of the block's first.
template <class S>
NMK_DEVICE void begin(Sums<S>& sums, const float* bias) {
    const int row = thread_index() % 32 / 4;
#pragma unroll
    for (int m = 0; m < S::m_tiles; ++m) {
        const float low = load_global_float(bias + m * 16 + row), high = load_global_float(bias + m * 16 + row + 8);
#pragma unroll
        for (int n = 0; n < S::n_tiles; ++n) {
            sums[m][n][0] = sums[m][n][1] = low;
            sums[m][n][2] = sums[m][n][3] = high;
        }
    }
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_MULTIPLY_CUH
