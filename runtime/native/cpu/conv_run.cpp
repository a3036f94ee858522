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

// Where the next tile finds what this one does not read: the columns to the right, or, at the end of
// a row of tiles, the rows below. `rows` has room for a pointer to each packed row.
void look_ahead(const ConvRun& run, int64_t y, int64_t stop, const float* source, size_t tile,
                const float** rows, TileJob& job) {
    const Conv& conv = *run.conv;
    const View& in = run.input;
    const bool last = tile + 1 == run.plan->tiles.size();
    const ColumnTile& next = run.plan->tiles[last ? 0 : tile + 1];
    job.ahead_pieces = 0;
    if ((last && y + kTileRows >= stop) || in.strip != run.output.strip * conv.stride_x) return;
    const int64_t reach = int64_t{conv.kernel_x - 1} * conv.dilation_x - conv.pad_left;
    const int64_t first = last ? 0 : next.first * conv.stride_x + reach;
    const int64_t end = std::min((next.first + next.columns) * conv.stride_x + reach, in.strip);
    if (first < 0 || end <= first) return;
    const int64_t top = (last ? y + kTileRows : y) * conv.stride_y - conv.pad_top;
    job.ahead_rows = 0;
    for (const Line& line : conv.rows) {
        const int64_t from = top + line.input;
        if (from < 0 || from >= in.height) continue;
        rows[job.ahead_rows++] = source + in.row_at(from) + first * run.kernels->lanes;
    }
    const int bytes = run.kernels->lanes * static_cast<int>(sizeof(float));
    job.ahead = rows, job.ahead_channel = in.plane;
    job.ahead_lines = static_cast<int>(end - first) * bytes / static_cast<int>(kLine);
    const int group = conv.sparse ? 1 : run.kernels->dense_group;
    const int blocks = (conv.inputs + conv.block - 1) / conv.block;
    const int steps = (conv.outputs + group - 1) / group * blocks * (conv.sparse ? 1 : job.rows);
    job.ahead_pieces = (conv.inputs * job.ahead_rows + steps - 1) / steps;
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
    const size_t row = sizeof(const float*) + sizeof(ptrdiff_t) + sizeof(int);
    const size_t rows = conv.rows.size() * row / sizeof(float) + 4;
    return conv.tile_floats() + partial + (rows + 15) / 16 * 16;
}

void run_conv(const ConvRun& run, int64_t first, int64_t stop, float* scratch) {
    const Conv& conv = *run.conv;
    const int lanes = run.kernels->lanes;
    float* const tile = scratch;
    float* const partial = tile + conv.tile_floats();
    auto* const ahead_rows = reinterpret_cast<const float**>(
        partial + kOutputBlock * kTileRows * kTileColumns * lanes);
    auto* const source_rows = reinterpret_cast<ptrdiff_t*>(ahead_rows + conv.rows.size());
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
                const auto tile_index = static_cast<size_t>(&columns - run.plan->tiles.data());
                look_ahead(run, y, stop, pack.source, tile_index, ahead_rows, job);
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
