// A prepared convolution and activations -> its output, tile by tile.

#include <algorithm>

#include "conv.h"

namespace nmk {

namespace {

// Per lane, the packed column's offset in the source row, or -1 where the image ends.
void gather_offsets(const Conv& conv, const View& in, const View& out, int64_t shift, int lanes,
                    int32_t* offsets) {
    for (int lane = 0; lane < lanes; ++lane) {
        const int64_t x = lane * out.strip * conv.stride_x + shift;
        const bool inside = x >= 0 && x < in.width;
        offsets[lane] = inside ? static_cast<int32_t>(x % in.strip * lanes + x / in.strip) : -1;
    }
}

// The packed column is the source's position `at`, moved by `turn` lanes: at a strip's edge the
// neighbouring pixel is in the next lane, which an unaligned load brings.
Run aligned_run(const View& in, int64_t shift, int lanes, std::deque<Lanes>& storage) {
    int64_t turn = shift / in.strip;
    if (shift % in.strip < 0) --turn;
    const int64_t at = shift - turn * in.strip;
    Lanes mask{};
    bool all = true;
    for (int lane = 0; lane < lanes; ++lane) {
        const int64_t from = lane + turn;
        const bool valid = from >= 0 && from < lanes && from * in.strip + at < in.width;
        mask.bits[lane] = valid ? 0xffffffffu : 0u;
        all = all && valid;
    }
    const bool near = turn > -lanes && turn < lanes;
    Run run{0, 1, near ? at * lanes + turn : 0, nullptr, nullptr};
    if (!all) {
        storage.push_back(mask);
        run.mask = storage.back().bits;
    }
    return run;
}

Run column_run(const Conv& conv, const View& in, const View& out, int64_t shift, int lanes,
               std::deque<Lanes>& storage) {
    if (in.strip == out.strip * conv.stride_x) return aligned_run(in, shift, lanes, storage);
    storage.emplace_back();
    auto* offsets = reinterpret_cast<int32_t*>(storage.back().bits);
    gather_offsets(conv, in, out, shift, lanes, offsets);
    return {0, 1, 0, nullptr, offsets};
}

// Which lines of the input rows that the next row of tiles adds this tile is to fetch: its share.
// Those rows are one piece of memory but where they pass the end of a ring.
void look_ahead(const ConvRun& run, const Part& part, int64_t y, int group, int64_t tile, TileJob& job) {
    const Conv& conv = *run.conv;
    const int64_t last = y * conv.stride_y - conv.pad_top + conv.rows.back().input;
    const int64_t first = last + 1, stop = first + kTileRows * conv.stride_y;
    job.ahead_lines = 0;
    if (first < 0 || stop > run.input.height || run.input.row == 0) return;
    const ptrdiff_t begin = run.input.row_at(first);
    if (run.input.row_at(stop - 1) - begin != (stop - 1 - first) * run.input.row) return;
    const int64_t shares = static_cast<int64_t>(run.plan->tiles.size()) * conv.groups;
    const int64_t lines = (stop - first) * run.input.row / 16 / shares;
    const auto steps = static_cast<int64_t>(part.counts.size());
    job.ahead_lines = static_cast<int>((lines + steps - 1) / std::max<int64_t>(steps, 1));
    const int64_t share = group * static_cast<int64_t>(run.plan->tiles.size()) + tile;
    job.ahead = reinterpret_cast<const char*>(run.input.data + begin) + share * lines * 64;
}

bool continues(const Run& last, const Run& next, int lanes) {
    return last.mask == nullptr && last.gather == nullptr && next.mask == nullptr &&
           next.gather == nullptr && next.target == last.target + last.count &&
           next.source == last.source + static_cast<ptrdiff_t>(last.count) * lanes;
}

}  // namespace

ConvPlan plan_conv(const Conv& conv, const Kernels& kernels, const View& input, const View& output) {
    ConvPlan plan;
    const int64_t tiles = (output.strip + kTileColumns - 1) / kTileColumns;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        // As even as possible: a narrow last tile would spend its time on broadcasts.
        const int64_t first = tile * output.strip / tiles, stop = (tile + 1) * output.strip / tiles;
        ColumnTile made{first, static_cast<int>(stop - first), {}};
        const int wide = conv.pitch / conv.stride_x;
        for (const Line& line : conv.columns) {
            if (line.packed % wide >= wide - kTileColumns + made.columns) continue;
            const int64_t shift = first * conv.stride_x - conv.pad_left + line.input;
            Run run = column_run(conv, input, output, shift, kernels.lanes, plan.lanes);
            run.target = line.packed;
            if (!made.runs.empty() && continues(made.runs.back(), run, kernels.lanes)) {
                ++made.runs.back().count;
            } else {
                made.runs.push_back(run);
            }
        }
        plan.tiles.push_back(std::move(made));
    }
    return plan;
}

size_t conv_scratch(const Conv& conv, const Kernels& kernels) {
    const auto partial = static_cast<size_t>(kOutputBlock * kTileRows * kTileColumns * kernels.lanes);
    const size_t rows = conv.rows.size() * (sizeof(ptrdiff_t) + sizeof(int)) / sizeof(float) + 4;
    return conv.tile_floats() + partial + (rows + 15) / 16 * 16;
}

void run_conv(const ConvRun& run, int64_t first, int64_t stop, float* scratch) {
    const Conv& conv = *run.conv;
    const int lanes = run.kernels->lanes;
    float* const tile = scratch;
    float* const partial = tile + conv.tile_floats();
    auto* const source_rows = reinterpret_cast<ptrdiff_t*>(
        partial + kOutputBlock * kTileRows * kTileColumns * lanes);
    auto* const tile_rows = reinterpret_cast<int*>(source_rows + conv.rows.size());
    const auto row_count = static_cast<int>(conv.rows.size());

    PackJob pack{};
    pack.tile = tile, pack.tile_channel = conv.tile_channel, pack.channels = conv.inputs;
    pack.source_channel = run.input.plane;
    pack.source_rows = source_rows, pack.tile_rows = tile_rows, pack.row_count = row_count;
    pack.row_floats = conv.pitch * lanes;

    TileJob job{};
    job.tile = tile, job.row_step = conv.pitch * lanes, job.partial = partial;
    job.block = conv.block;
    job.outputs = conv.outputs, job.channels = conv.inputs, job.tile_channel = conv.tile_channel;
    job.tap_offsets = conv.tap_offsets.data(), job.tap_count = static_cast<int>(conv.tap_offsets.size());
    job.output_channel = run.output.plane, job.residual_channel = run.residual.plane;

    for (int64_t y = first; y < stop; y += kTileRows) {
        job.rows = static_cast<int>(std::min<int64_t>(kTileRows, stop - y));
        const ptrdiff_t output = run.output.row_at(y), residual = run.residual.row_at(y);
        job.output_row = run.output.row_at(y + 1) - output;
        job.residual_row = run.residual.row_at(y + 1) - residual;
        // Rows that only a second row of output would need may not have been computed yet.
        const int64_t last = (y + job.rows - 1) * conv.stride_y + (conv.kernel_y - 1) * conv.dilation_y;
        const int64_t end = std::min(last - conv.pad_top + 1, run.input.height);
        for (int i = 0; i < row_count; ++i) {
            const Line& line = conv.rows[static_cast<size_t>(i)];
            const int64_t from = y * conv.stride_y - conv.pad_top + line.input;
            source_rows[i] = from >= 0 && from < end ? run.input.row_at(from) : -1;
            tile_rows[i] = line.packed * conv.pitch * lanes;
        }
        for (int group = 0; group < conv.groups; ++group) {
            const Part& part = conv.parts[static_cast<size_t>(group)];
            const int channel = group * conv.outputs;
            Epilogue epilogue = run.epilogue;
            if (epilogue.bias != nullptr) epilogue.bias += channel;
            if (epilogue.activation.slopes != nullptr) epilogue.activation.slopes += channel;
            job.epilogue = &epilogue;
            job.taps = part.taps.data(), job.counts = part.counts.data();
            job.input_blocks = part.input_blocks, job.weights = part.weights.get();
            pack.source = run.input.data + group * conv.inputs * run.input.plane;
            for (const ColumnTile& columns : run.plan->tiles) {
                pack.runs = columns.runs.data();
                pack.run_count = static_cast<int>(columns.runs.size());
                run.kernels->pack(pack);
                const ptrdiff_t at = columns.first * lanes;
                look_ahead(run, part, y, group, &columns - run.plan->tiles.data(), job);
                job.columns = columns.columns;
                job.output = run.output.data + channel * run.output.plane + output + at;
                job.residual = run.residual.data == nullptr
                                   ? nullptr
                                   : run.residual.data + channel * run.residual.plane + residual + at;
                (conv.sparse ? run.kernels->conv_nm : run.kernels->conv_dense)(job);
            }
        }
    }
}

}  // namespace nmk
