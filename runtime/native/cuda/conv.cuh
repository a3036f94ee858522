// Params -> one convolution; blocks stay and take tile after tile, the next one's data under way.
#ifndef NMK_CUDA_CONV_CUH
#define NMK_CUDA_CONV_CUH

#include "epilogue.cuh"

namespace nmk_cuda {

// Where an item (a tile of an image, for a block of outputs) is; blocks of outputs come first, so that
// those which read the same pixels run at the same time.
struct Item {
    int row_block, image, top, left;  // of the output
};

NMK_DEVICE Item item_of(const Params& p, int index, int tile_rows, int tile_columns) {
    const int tile = index / p.row_blocks, in_image = tile / p.tiles_x;
    return {index % p.row_blocks, in_image / p.tiles_y, in_image % p.tiles_y * tile_rows,
            tile % p.tiles_x * tile_columns};
}

// The inputs of an item in turn, then those of the block's next item.
struct InputCursor {
    int item, chunk;

    NMK_DEVICE void advance(const Params& p) {
        if (++chunk < p.chunks) return;
        chunk = 0;
        item += grid_size();
    }
};

template <class S>
NMK_DEVICE void request_input(uint32_t to, const Params& p, const InputCursor& cursor) {
    if (cursor.item >= p.items) return;
    const Item item = item_of(p, cursor.item, S::tile_rows, kTileColumns);
    const size_t image = static_cast<size_t>(item.image) * static_cast<size_t>(p.height) *
                         static_cast<size_t>(p.width) * static_cast<size_t>(p.channels);
    const Source source{p.input + image, p.height, p.width, p.channels, cursor.chunk};
    request_input<S>(to, source, item.top * S::stride - p.pad_top, item.left * S::stride - p.pad_left,
                     (S::tile_rows - 1) * S::stride + p.kernel_height,
                     (kTileColumns - 1) * S::stride + p.kernel_width);
}

// The steps of an item in turn, then those of the block's next item.
struct WeightCursor {
    int item, step;
    const unsigned char* from;
};

template <class S>
NMK_DEVICE WeightCursor first_weights(const Params& p, int item) {
    const size_t bytes = static_cast<size_t>(p.chunks * p.kernel_height * p.kernel_width) *
                         static_cast<size_t>(bytes_of_step<S>(p.weights));
    return {item, 0, p.weights.steps + static_cast<size_t>(item % p.row_blocks) * bytes};
}

// Requests the cursor's step, if there is one, and moves it on.
template <class S>
NMK_DEVICE void request_weights(uint32_t to, const Params& p, WeightCursor& cursor, int steps) {
    if (cursor.item >= p.items) return;
    const int bytes = bytes_of_step<S>(p.weights);
    request_weights<S>(to, cursor.from, bytes);
    cursor.from += bytes;
    if (++cursor.step == steps) cursor = first_weights<S>(p, cursor.item + grid_size());
}

// Shared memory: two input tiles, the stages of weights, what sums pass through on their way out.
template <class S>
constexpr size_t conv_shared_bytes(int bytes_of_step) {
    return static_cast<size_t>(2 * S::input_bytes + S::weight_stages * bytes_of_step + S::staging_bytes);
}

template <class S>
NMK_DEVICE void conv(const Params& p) {
    if (p.level_chosen != nullptr && load_global_int(p.level_chosen) != p.level) return;
    const int positions = p.kernel_height * p.kernel_width, steps = p.chunks * positions;
    const uint32_t inputs = shared_base(), weights = inputs + 2U * S::input_bytes;
    const uint32_t stage_bytes = static_cast<uint32_t>(bytes_of_step<S>(p.weights));
    const uint32_t staging = weights + S::weight_stages * stage_bytes;
    InputCursor next_input{block_index(), 0};
    WeightCursor next_weights = first_weights<S>(p, block_index());
    request_input<S>(inputs, p, next_input);
    next_input.advance(p);
    uint32_t tile = 0, stage = 0, free_stage = S::ahead;
    for (; stage < S::ahead; ++stage) {
        request_weights<S>(weights + stage * stage_bytes, p, next_weights, steps);
        commit_copies();
    }
    stage = 0;
    for (int index = block_index(); index < p.items; index += grid_size()) {
        const Item item = item_of(p, index, S::tile_rows, kTileColumns);
        Sums<S> sums;
        begin<S>(sums, p.weights.bias + item.row_block * S::outputs);
        for (int step = 0, ky = 0, kx = 0; step < steps; ++step) {
            // This step's weights are the oldest request; an input was requested `positions` steps ago.
            if (positions >= S::ahead) {
                await_copies<S::ahead - 1>();
            } else {
                await_copies<0>();
            }
            sync_block();  // everyone's copies have come, and everyone is done with what is overwritten now
            const uint32_t input = inputs + tile * S::input_bytes;
            if (ky == 0 && kx == 0) {
                request_input<S>(inputs + (1 - tile) * S::input_bytes, p, next_input);
                next_input.advance(p);
            }
            request_weights<S>(weights + free_stage * stage_bytes, p, next_weights, steps);
            commit_copies();
            multiply<S>(sums, input, weights + stage * stage_bytes, p.weights.gathers, ky, kx);
            free_stage = stage;
            stage = stage + 1 == S::weight_stages ? 0 : stage + 1;
            if (++kx < p.kernel_width) continue;
            kx = 0;
            if (++ky < p.kernel_height) continue;
            ky = 0;
            tile = 1 - tile;
        }
        store_part<S>(sums, staging, p, p.weights,
                      {item.image, item.top, item.left, p.out_height - item.top, p.out_width - item.left},
                      item.row_block * S::outputs);
    }
    await_copies<0>();
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_CONV_CUH
