// Params -> two 3x3 convolutions of 64 channels and a residual; what lies between them stays in shared memory.
//
// A tile of intermediate pixels is one wider all around than the outputs made from it, so that a block of
// warps computes tile_rows x 16 intermediate pixels, and of as many outputs keeps (tile_rows - 2) x 14.
#ifndef NMK_CUDA_BLOCK_CUH
#define NMK_CUDA_BLOCK_CUH

#include "conv.cuh"

namespace nmk_cuda {

constexpr int kBlockColumns = kTileColumns - 2;  // outputs of a fused tile's row
constexpr int kBlockPositions = 9;

template <class S>
constexpr int kBlockRows = S::tile_rows - 2;

// Shared memory: as a convolution's, and the intermediate tile.
template <class S>
constexpr size_t block_shared_bytes(int bytes_of_step) {
    return conv_shared_bytes<S>(bytes_of_step) + static_cast<size_t>(S::input_bytes);
}

template <class S>
NMK_DEVICE void request_block_input(uint32_t to, const Params& p, int index) {
    if (index >= p.items) return;
    const Item item = item_of(p, index, kBlockRows<S>, kBlockColumns);
    const size_t image = static_cast<size_t>(item.image) * static_cast<size_t>(p.height) *
                         static_cast<size_t>(p.width) * static_cast<size_t>(p.channels);
    request_input<S>(to, Source{p.input + image, p.height, p.width, p.channels, 0}, item.top - 2, item.left - 2,
                     S::input_rows, S::input_columns);
}

// Step 0 to 8 are the first convolution's, 9 to 17 the second's; both packings have steps of the same bytes.
template <class S>
NMK_DEVICE void request_block_weights(uint32_t to, const Params& p, WeightCursor& cursor) {
    if (cursor.item >= p.items) return;
    const int bytes = bytes_of_step<S>(p.weights);
    request_weights<S>(to, cursor.from, bytes);
    cursor.from += bytes;
    ++cursor.step;
    if (cursor.step == kBlockPositions) cursor.from = p.second.steps;
    if (cursor.step == 2 * kBlockPositions) cursor = {cursor.item + grid_size(), 0, p.weights.steps};
}

// What the second convolution reads: zeros outside of the image, whose border it pads with them. Only outputs
// that the tile does not keep read beyond these pixels, and no output reads another's.
template <class S>
NMK_DEVICE void keep_intermediate(const Sums<S>& sums, uint32_t staging, uint32_t middle, const Params& p,
                                  const Item& item) {
    for_each_vector<S>(
        sums, staging, [](int, int) { return Words{}; },
        [&](int row, int column, Values values, const Words&) {
            const int y = item.top - 1 + row, x = item.left - 1 + column;
            const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
            activate(values, p.weights);
            store_shared_words(middle + vector_at<S>(row, column, own_vector<S>()),
                               inside ? halves_of(typename S::Type{}, values) : Words{});
        });
}

template <class S>
NMK_DEVICE Part part_of(const Params& p, const Item& item) {
    const int rows = p.height - item.top, columns = p.width - item.left;
    return {item.image, item.top, item.left, rows < kBlockRows<S> ? rows : kBlockRows<S>,
            columns < kBlockColumns ? columns : kBlockColumns};
}

// Where a block of threads is in its shared memory.
struct Places {
    uint32_t inputs, middle, weights, stage_bytes, staging;
};

template <class S>
NMK_DEVICE Places places_of(const Params& p) {
    Places places{};
    places.inputs = shared_base();
    places.middle = places.inputs + 2U * S::input_bytes;
    places.weights = places.middle + static_cast<uint32_t>(S::input_bytes);
    places.stage_bytes = static_cast<uint32_t>(bytes_of_step<S>(p.weights));
    places.staging = places.weights + S::weight_stages * places.stage_bytes;
    return places;
}

template <class S>
NMK_DEVICE void residual_block(const Params& p) {
    if (p.level_chosen != nullptr && load_global_int(p.level_chosen) != p.level) return;
    const Places at = places_of<S>(p);
    WeightCursor next_weights{block_index(), 0, p.weights.steps};
    request_block_input<S>(at.inputs, p, block_index());
    uint32_t tile = 0, stage = 0, free_stage = S::ahead;
    for (; stage < S::ahead; ++stage) {
        request_block_weights<S>(at.weights + stage * at.stage_bytes, p, next_weights);
        commit_copies();
    }
    stage = 0;
    for (int index = block_index(); index < p.items; index += grid_size()) {
        const Item item = item_of(p, index, kBlockRows<S>, kBlockColumns);
        Sums<S> sums;
        begin<S>(sums, p.weights.bias);
        for (int step = 0, ky = 0, kx = 0; step < 2 * kBlockPositions; ++step) {
            const bool second = step >= kBlockPositions;
            if (step == kBlockPositions) {
                keep_intermediate<S>(sums, at.staging, at.middle, p, item);
                begin<S>(sums, p.second.bias);
            }
            await_copies<S::ahead - 1>();
            sync_block();
            if (step == 0) {
                request_block_input<S>(at.inputs + (1 - tile) * S::input_bytes, p, index + grid_size());
            }
            request_block_weights<S>(at.weights + free_stage * at.stage_bytes, p, next_weights);
            commit_copies();
            multiply<S>(sums, second ? at.middle : at.inputs + tile * S::input_bytes,
                        at.weights + stage * at.stage_bytes, p.weights.gathers, ky, kx);
            free_stage = stage;
            stage = stage + 1 == S::weight_stages ? 0 : stage + 1;
            kx = kx == 2 ? 0 : kx + 1;
            if (kx == 0) ky = ky == 2 ? 0 : ky + 1;
        }
        tile = 1 - tile;
        store_part<S>(sums, at.staging, p, p.second, part_of<S>(p, item), 0);
    }
    await_copies<0>();
}

}  // namespace nmk_cuda

#endif  // NMK_CUDA_BLOCK_CUH
