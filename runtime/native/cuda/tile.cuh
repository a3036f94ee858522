// Pieces of images and of packed weights -> shared memory, by asynchronous copies.
//
// An input tile is [row][column][64 channels]; the eight 16-byte vectors of a pixel are exchanged by its
// column, so that the same vector of eight pixels side by side lies in eight different groups of banks.
#ifndef NMK_CUDA_TILE_CUH
#define NMK_CUDA_TILE_CUH

#include "params.h"
#include "primitives.cuh"

namespace nmk_cuda {

// The shape of a kernel: `warps` warps compute `rows` rows of 16 pixels each, for 16 * m_tiles outputs.
template <class T, Kind kind_, int m_tiles_, int warps_, int rows_, int stride_>
struct Shape {
    using Type = T;
    static constexpr Kind kind = kind_;
    static constexpr int m_tiles = m_tiles_, warps = warps_, rows = rows_, stride = stride_;
    static constexpr int threads = 32 * warps;
    static constexpr int n_tiles = rows * kTileColumns / 8;
    static constexpr int outputs = 16 * m_tiles;
    static constexpr int tile_rows = warps * rows;
    static constexpr int input_columns = (kTileColumns - 1) * stride + 3;
    static constexpr int input_rows = (tile_rows - 1) * stride + 3;
    static constexpr int input_bytes = input_rows * input_columns * kPixelBytes;
    static constexpr int fixed_step_bytes = step_bytes(kind, m_tiles, 0);  // but for gathered ones
    // How many steps ahead weights are requested. Copies come in order, so that the next input, which the first
    // step requests, has as many steps to come: the more the shorter they are, as far as shared memory goes.
    static constexpr int ahead = stride > 1     ? (kind == Kind::kDense ? 1 : 2)
                                 : m_tiles == 1 ? 4
                                                : (kind == Kind::kDense ? 1 : kind == Kind::kSparse ? 3 : 4);
    static constexpr int weight_stages = ahead + 1;
    // Floats from one pixel's outputs to the next one's while they leave the registers: 4 lanes' pixels
    // fall 8 banks apart.
    static constexpr int staging_pitch = outputs + 4;
    static constexpr int warp_staging_bytes = 8 * staging_pitch * 4;
    static constexpr int staging_bytes = warps * warp_staging_bytes;
};

// Where a vector of a pixel lies in an input tile; only the column's place counts for the exchange.
template <class S>
NMK_DEVICE uint32_t vector_at(int row, int column, int vector) {
    const int group = vector ^ ((column / S::stride) & 7);
    return static_cast<uint32_t>(((row * S::input_columns + column) * 8 + group) * kVectorBytes);
}

// An image of halves, and one chunk of its channels.
struct Source {
    const uint16_t* image;
    int height, width, channels, chunk;
};

// Channels that do not fill vectors of 8 are read one by one, by the thread itself.
NMK_DEVICE Words gather_vector(const uint16_t* pixel, int first, int channels) {
    Words v{};
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
        const uint32_t half = first + i < channels ? load_global_half(pixel + first + i) : 0U;
        v.w[i / 2] |= half << (16 * (i % 2));
    }
    return v;
}

// Requests the tile whose first pixel is (top, left) of the image: zeros outside of it. A thread takes the same
// vector of every (threads / 8)-th pixel; a tile's row is not divided out but counted, which is cheaper.
template <class S>
NMK_DEVICE void request_input(uint32_t to, const Source& source, int top, int left, int rows, int columns) {
    constexpr int kPixels = S::threads / 8, kColumns = S::input_columns;
    const int vector = thread_index() % 8, first = source.chunk * kChunk + vector * kVector;
    const bool whole_vectors = source.channels % kVector == 0, there = first < source.channels;
    int row = thread_index() / 8 / kColumns, column = thread_index() / 8 % kColumns;
    while (row < rows) {
        const int y = top + row, x = left + column;
        const bool inside = there && static_cast<unsigned>(y) < static_cast<unsigned>(source.height) &&
                            static_cast<unsigned>(x) < static_cast<unsigned>(source.width);
        const uint16_t* pixel = source.image;
        if (inside) pixel += (static_cast<size_t>(y) * static_cast<size_t>(source.width) + static_cast<size_t>(x)) *
                             static_cast<size_t>(source.channels);
        const uint32_t place = to + vector_at<S>(row, column, vector);
        if (column < columns) {
            if (whole_vectors) {
                copy_async(place, pixel + (inside ? first : 0), inside);
            } else {
                store_shared_words(place, inside ? gather_vector(pixel, first, source.channels) : Words{});
            }
        }
        row += kPixels / kColumns;
        column += kPixels % kColumns;
        if (column >= kColumns) {
            column -= kColumns;
            ++row;
        }
    }
}

// Bytes of a step's weights: known when the kernel is compiled, but for gathered ones.
template <class S>
NMK_DEVICE int bytes_of_step(const Weights& weights) {
    if constexpr (S::kind == Kind::kGathered) return weights.bytes;
    return S::fixed_step_bytes;
}

// Requests one step's weights.
template <class S>
NMK_DEVICE void request_weights(uint32_t to, const unsigned char* from, int bytes) {
#pragma unroll
    for (int first = 0; first < bytes; first += S::threads * kVectorBytes) {
        const int i = first + thread_index() * kVectorBytes;
        if (i < bytes) copy_async(to + static_cast<uint32_t>(i), from + i, true);
    }
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_TILE_CUH
