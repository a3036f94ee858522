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

// The columns whose tiles in a row of tiles are one thread's, and the first of those in the row below.
struct Span {
    size_t first, stop, next;
    bool more;  // there are any below
};

// Threads share tiles column by column, so that one finds most of its inputs where it left them: in its own cache.
Span span_of(const ConvRun& run, const Rows& rows, int64_t at, int64_t deep) {
    const int64_t all = deep * static_cast<int64_t>(run.plan->tiles.size());
    const int64_t begin = rows.begin(all), end = rows.end(all);
    const auto column = [deep](int64_t tile, int64_t row) { return static_cast<size_t>((tile + deep - 1 - row) / deep); };
    Span span{column(begin, at), column(end, at), 0, false};
    if (at + 1 < deep) span.next = column(begin, at + 1), span.more = span.next < column(end, at + 1);
    return span;
}

// Where the next tile finds what this one does not read: the columns to the right, or, at the end of
// a row of tiles, the rows below. `rows` has room for a pointer to each packed row.
Ahead look_ahead(const ConvRun& run, const Part& part, int64_t y, const Span& span, const float* source,
                 size_t tile, const float** rows) {
    const Conv& conv = *run.conv;
    const View& in = run.input;
    const bool last = tile + 1 == span.stop;
    const ColumnTile& next = run.plan->tiles[last ? span.next : tile + 1];
    Ahead ahead{};
    if ((last && !span.more) || in.strip * conv.shuffle != run.output.strip * conv.stride_x) return ahead;
    const int64_t reach = int64_t{conv.kernel_x - 1} * conv.dilation_x - conv.pad_left;
    const int64_t first = last ? std::max<int64_t>(next.first * conv.stride_x - conv.pad_left, 0)
                               : next.first * conv.stride_x + reach;
    const int64_t end = std::min((next.first + next.columns) * conv.stride_x + reach, in.strip);
    if (first < 0 || end <= first) return ahead;
    const int64_t top = (last ? y + conv.tile_rows : y) * conv.stride_y - conv.pad_top;
    for (const Line& line : conv.rows) {
        const int64_t from = top + line.input;
        if (from < 0 || from >= in.height) continue;
        rows[ahead.row_count++] = source + in.row_at(from) + first * run.kernels->lanes;
    }
    const int bytes = run.kernels->lanes * static_cast<int>(sizeof(float));
    ahead.rows = rows, ahead.channel_step = in.plane;
    ahead.lines = static_cast<int>(end - first) * bytes / static_cast<int>(kLine);
    const int64_t pieces = int64_t{conv.inputs} * ahead.row_count, steps = std::max<int64_t>(part.steps, 1);
    ahead.pieces = static_cast<int>((pieces + steps - 1) / steps);
    return ahead;
}

bool continues(const Run& last, const Run& next, int lanes) {
    return last.mask == nullptr && last.gather == nullptr && next.mask == nullptr &&
           next.gather == nullptr && next.target == last.target + last.count &&
           next.source == last.source + static_cast<ptrdiff_t>(last.count) * lanes;
}

// Whether a tile is its inputs as they stand: packing them would take a tenth of the time of 64 -> 64.
bool reads_in_place(const ConvRun& run) {
    const Conv& conv = *run.conv;
    const bool one = conv.kernel_y == 1 && conv.kernel_x == 1 && conv.stride_y == 1 && conv.stride_x == 1;
    const bool framed = conv.pad_top != 0 || conv.pad_bottom != 0 || conv.pad_left != 0 || conv.pad_right != 0;
    return conv.method == Method::dense && one && !framed && run.input.strip * conv.shuffle == run.output.strip;
}

// What one thread needs besides images; pointers into `from`, which may be null to learn the size.
struct Scratch {
    float *tile, *partial, *regrouped, *spots, *products;
    const float** ahead_rows;
    ptrdiff_t* source_rows;
    int* tile_rows;
    ptrdiff_t spot_step;
    size_t floats;
};

Scratch scratch_parts(const Conv& conv, const Kernels& kernels, float* from) {
    const auto lanes = static_cast<size_t>(kernels.lanes);
    const bool winograd = conv.method == Method::winograd;
    const size_t blocks = static_cast<size_t>(conv.tile_columns) / kWinogradBlock;
    constexpr size_t spots = kWinogradSide * kWinogradSide;
    Scratch parts{};
    const auto take = [&](size_t floats) {
        float* at = from == nullptr ? nullptr : from + parts.floats;
        parts.floats += (floats + 15) / 16 * 16;
        return at;
    };
    parts.tile = take(conv.tile_floats());
    const size_t partial = winograd ? size_t{kWinogradBlock} * kWinogradBlock * blocks
                                    : size_t{kMostSums} * kTileRows * kTileColumns;
    parts.partial = take(partial * lanes);
    parts.regrouped = take(conv.most_picks * kTileRows * kTileColumns * lanes);
    parts.ahead_rows = reinterpret_cast<const float**>(take(2 * conv.rows.size()));
    parts.source_rows = reinterpret_cast<ptrdiff_t*>(take(2 * conv.rows.size()));
    parts.tile_rows = reinterpret_cast<int*>(take(conv.rows.size()));
    if (winograd) {
        // One vector more than needed: steps of a multiple of 4 KiB would all fall into one L1 set.
        parts.spot_step = static_cast<ptrdiff_t>((static_cast<size_t>(conv.inputs) * blocks + 1) * lanes);
        parts.spots = take(spots * static_cast<size_t>(parts.spot_step));
        parts.products = take(spots * blocks * static_cast<size_t>(kernels.winograd_group) * lanes);
    }
    return parts;
}

void compute_pairs(const Kernels& kernels, const Scratch& parts, const Part& part, const PackJob& pack,
                   TileJob job) {
    kernels.pack_pairs(pack);
    const int first = job.first;
    const ptrdiff_t row_step = job.row_step;
    for (const PairBlock& block : part.blocks) {
        job.tile = parts.tile, job.row_step = row_step;
        if (!block.picks.empty()) {
            kernels.regroup({parts.tile, row_step, block.picks.data(),
                             static_cast<int>(block.picks.size()), job.columns,
                             reinterpret_cast<uint32_t*>(parts.regrouped)});
            job.tile = parts.regrouped, job.row_step = kTileColumns * kernels.lanes;
        }
        job.first = first + block.first, job.outputs = block.outputs, job.words = block.words.get(), job.pair_step = block.pair_step;
        job.tap_offsets = block.offsets.data(), job.tap_count = static_cast<int>(block.offsets.size());
        kernels.conv_pairs(job);
    }
}

void compute(const Kernels& kernels, const Conv& conv, const Scratch& parts, const Part& part,
             const PackJob& pack, const TileJob& job) {
    switch (conv.method) {
        case Method::winograd:
            kernels.conv_winograd({pack, job, part.used.data(), static_cast<int>(part.used.size()),
                                   part.kept.data(), parts.spots, parts.spot_step, parts.products});
            break;
        case Method::pairs: compute_pairs(kernels, parts, part, pack, job); break;
        case Method::sparse:
            if (!part.taps.empty()) kernels.pack(pack);
            kernels.conv_nm(job);
            break;
        case Method::halves:
            if (!part.taps.empty()) kernels.pack_halves(pack);
            kernels.conv_halves(job);
            break;
        case Method::dense:
            if (job.tile == parts.tile) kernels.pack(pack);
            kernels.conv_dense(job);
            break;
    }
}

}  // namespace

ConvPlan plan_conv(const Conv& conv, const Kernels& kernels, const View& input, View output) {
    output.strip /= conv.shuffle;
    ConvPlan plan;
    // As even as possible: a narrow last tile would spend its time on broadcasts.
    const int64_t unit = conv.method == Method::winograd ? kWinogradBlock : 1;
    const int64_t units = (output.strip + unit - 1) / unit;
    const int64_t tiles = (units * unit + conv.tile_columns - 1) / conv.tile_columns;
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = tile * units / tiles * unit;
        const int64_t stop = std::min((tile + 1) * units / tiles * unit, output.strip);
        ColumnTile made{first, static_cast<int>(stop - first), {}};
        const auto packed = static_cast<int>((stop - first + unit - 1) / unit * unit);
        const int wide = conv.pitch / conv.stride_x;
        for (const Line& line : conv.columns) {
            if (line.packed % wide >= wide - conv.tile_columns + packed) continue;
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
    return scratch_parts(conv, kernels, nullptr).floats;
}

void run_conv(const ConvRun& run, Rows rows, float* scratch) {
    const Conv& conv = *run.conv;
    const int lanes = run.kernels->lanes;
    const Scratch parts = scratch_parts(conv, *run.kernels, scratch);
    const auto row_count = static_cast<int>(conv.rows.size());

    PackJob pack{};
    pack.tile = parts.tile, pack.tile_channel = conv.tile_channel, pack.channels = conv.inputs;
    pack.source_channel = run.input.plane;
    pack.source_rows = parts.source_rows, pack.tile_rows = parts.tile_rows, pack.row_count = row_count;
    pack.row_floats = conv.pitch * lanes, pack.padding = conv.pair_padding;

    TileJob job{};
    job.tile = parts.tile, job.row_step = conv.pitch * lanes, job.partial = parts.partial;
    job.block = conv.block;
    job.outputs = conv.outputs, job.channels = conv.inputs, job.tile_channel = conv.tile_channel;
    job.tap_offsets = conv.tap_offsets.data(), job.tap_count = static_cast<int>(conv.tap_offsets.size());
    job.places = conv.places.empty() ? nullptr : conv.places.data();
    job.epilogue = &run.epilogue, job.shuffle = conv.shuffle;
    job.output_channel = run.output.plane, job.residual_channel = run.residual.plane;

    const bool in_place = reads_in_place(run);
    if (in_place) job.tile_channel = run.input.plane;
    const int64_t first = rows.first / conv.shuffle, stop = rows.stop / conv.shuffle;
    const int64_t deep = (stop - first + conv.tile_rows - 1) / conv.tile_rows;
    for (int64_t at = 0; at < deep; ++at) {
        const Span span = span_of(run, rows, at, deep);
        if (span.first >= span.stop) continue;
        const int64_t y = first + at * conv.tile_rows;
        job.rows = static_cast<int>(std::min<int64_t>(conv.tile_rows, stop - y));
        for (int row = 0; row < job.rows; ++row) job.residual_rows[row] = run.residual.row_at(y + row);
        for (int row = 0; row < job.rows * conv.shuffle; ++row) {
            job.output_rows[row] = run.output.row_at(y * conv.shuffle + row);
        }
        if (in_place && job.rows > 1) job.row_step = run.input.row_at(y + 1) - run.input.row_at(y);
        // Rows that only further rows of output would need may not have been computed yet.
        const int64_t last = (y + job.rows - 1) * conv.stride_y + (conv.kernel_y - 1) * conv.dilation_y;
        const int64_t end = std::min(last - conv.pad_top + 1, run.input.height);
        for (int i = 0; i < row_count; ++i) {
            const Line& line = conv.rows[static_cast<size_t>(i)];
            const int64_t from = y * conv.stride_y - conv.pad_top + line.input;
            parts.source_rows[i] = from >= 0 && from < end ? run.input.row_at(from) : -1;
            parts.tile_rows[i] = line.packed * conv.pitch * lanes;
        }
        for (int group = 0; group < conv.groups; ++group) {
            const Part& part = conv.parts[static_cast<size_t>(group)];
            job.first = group * conv.outputs;
            job.taps = part.taps.data(), job.counts = part.counts.data();
            job.input_blocks = part.input_blocks, job.weights = part.weights.get();
            pack.source = run.input.data + group * conv.inputs * run.input.plane;
            pack.used = part.used.data(), pack.used_count = static_cast<int>(part.used.size());
            for (size_t tile = span.first; tile < span.stop; ++tile) {
                const ColumnTile& columns = run.plan->tiles[tile];
                pack.runs = columns.runs.data();
                pack.run_count = static_cast<int>(columns.runs.size());
                const ptrdiff_t offset = columns.first * lanes;
                Ahead ahead = look_ahead(run, part, y, span, pack.source, tile, parts.ahead_rows);
                job.ahead = &ahead;
                job.columns = columns.columns;
                if (in_place) job.tile = pack.source + run.input.row_at(y) + offset;
                job.output = run.output.data + offset * conv.shuffle;
                job.residual = run.residual.data == nullptr ? nullptr : run.residual.data + offset;
                compute(*run.kernels, conv, parts, part, pack, job);
            }
        }
    }
}

}  // namespace nmk
