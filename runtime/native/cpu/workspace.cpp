// A program and its inputs' sizes -> strip widths, schedules, memory by lifetime, and tile plans.

#include "workspace.h"

#include <algorithm>

#include "spatial.h"

namespace nmk {

namespace {

// Vectors that a strip-edge load may reach beyond a buffer, at most one on either side.
constexpr size_t kSlack = 32;
constexpr uint64_t kLargestArena = uint64_t{1} << 34;  // floats: 64 GiB
constexpr int64_t kTrials = 64;

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

Aligned<uint32_t> row_mask(const View& view, int lanes) {
    Aligned<uint32_t> mask = aligned<uint32_t>(static_cast<size_t>(view.plane));
    for (int64_t x = 0; x < view.width; ++x) mask[static_cast<size_t>(x % view.strip * lanes + x / view.strip)] = ~0u;
    return mask;
}

}  // namespace

Program::Program() = default;

Program::~Program() = default;

Workspace::Workspace(const Program& program, int count)
    : threads(count), stages(find_stages(program, count)) {
    seconds.resize(static_cast<size_t>(threads) * program.operations.size());
}

void Workspace::fit(const Program& program, const std::vector<Shape>& sizes) {
    if (sizes == sizes_) return;
    sizes_.clear();  // what follows may throw
    shapes_ = infer_shapes(program, sizes);
    int64_t extra = 0;
    while (extra < kTrials && !lay_strips(program, sizes, extra, false)) ++extra;
    if (extra == kTrials && !lay_strips(program, sizes, 0, true)) {
        throw Error("no strip width suits all layers at this image width");
    }
    schedule(program);
    choose_held();
    place(program);
    plans.clear(), masks.clear();
    plans.resize(program.operations.size()), masks.resize(program.operations.size());
    size_t scratch = 0;
    for (const Stage& stage : stages.all) {
        if (stage.role != Role::compute) continue;
        const Operation& operation = program.operations[stage.index];
        const View in = view(program, stage.reads[0].value, stage.reads[0].slot, 0);
        if (operation.kind() == Kind::moments) masks[stage.index] = row_mask(in, program.kernels->lanes);
        if (operation.kind() == Kind::pointwise) {
            scratch = std::max(scratch, 2 * static_cast<size_t>(view(program, stage.value, stage.slot, 0).plane));
        }
        const View out = view(program, stage.value, stage.slot, 0);
        if (operation.kind() == Kind::bilinear || operation.kind() == Kind::pad) {
            scratch = std::max(scratch, static_cast<size_t>(kColumnFloats * out.width));
        }
        // Runs point into their plan: it must not be copied, as a vector that grows would.
        plans[stage.index].resize(operation.convs.size());
        for (size_t i = 0; i < operation.convs.size(); ++i) {
            const Conv& conv = operation.convs[i];
            plans[stage.index][i] = plan_conv(conv, *program.kernels, in, out);
            scratch = std::max(scratch, conv_scratch(conv, *program.kernels));
        }
    }
    scratch = (scratch + kLine / sizeof(float) - 1) / (kLine / sizeof(float)) * (kLine / sizeof(float));
    if (scratch > scratch_floats_) {
        scratch_ = aligned<float>(scratch * static_cast<size_t>(threads));
        scratch_floats_ = scratch;
    }
    sizes_ = sizes;
}

// The strip width with which an operation's lanes line up with those of its input.
int64_t Workspace::wanted_strip(const Program& program, const Operation& operation) const {
    const OperationRecord& record = operation.record;
    const auto strip = [&](uint32_t value) { return strips_[program.values[value].buffer]; };
    const int64_t in = strip(record.inputs[0]);
    const int64_t out_width = shapes_[program.values[record.output].buffer].width;
    const int64_t least = ceil_div(out_width, program.kernels->lanes);
    switch (operation.kind()) {
        case Kind::conv2d:
        case Kind::max_pool: {
            const int64_t stride = operation.param(kStrideX), factor = record.shuffle;
            if (record.inputs[1] != kNone) return strip(record.inputs[1]);
            const int64_t fewest = ceil_div(out_width / factor, program.kernels->lanes);
            return (in % stride == 0 && in / stride >= fewest ? in / stride : fewest) * factor;
        }
        case Kind::pixel_shuffle:
        case Kind::nearest: return in * operation.param(0);
        case Kind::bilinear: return record.inputs[1] != kNone ? strip(record.inputs[1]) : in * operation.param(1);
        case Kind::pad: return out_width == shapes_[program.values[record.inputs[0]].buffer].width ? in : least;
        case Kind::moments: return 1;
        case Kind::pointwise: return in;
    }
    return least;
}

// Where every operation finds its operands lined up, or false; `apart` lets all but a residual differ,
// so that rows are brought into line one by one. Inputs whose widths are multiples of the narrowest one's get strips that are too.
bool Workspace::lay_strips(const Program& program, const std::vector<Shape>& sizes, int64_t extra, bool apart) {
    int64_t narrowest = sizes[0].width;
    for (Shape size : sizes) narrowest = std::min(narrowest, size.width);
    strips_.assign(shapes_.size(), 0);
    for (uint32_t i = 0; i < program.inputs; ++i) {
        const int64_t times = sizes[i].width % narrowest == 0 ? sizes[i].width / narrowest : 1;
        const int64_t part = ceil_div(sizes[i].width, times * program.kernels->lanes);
        strips_[program.values[i].buffer] = (part + extra) * times;
    }
    for (const Operation& operation : program.operations) {
        const OperationRecord& record = operation.record;
        const int64_t wanted = wanted_strip(program, operation);
        int64_t& known = strips_[program.values[record.output].buffer];
        if (known != 0 && known != wanted) {
            // A convolution can gather into any layout; what works in place of its input cannot.
            const bool gathers = operation.kind() == Kind::max_pool || operation.kind() == Kind::bilinear ||
                                 operation.kind() == Kind::pad || operation.kind() == Kind::conv2d;
            const bool adds = operation.kind() == Kind::conv2d && record.inputs[1] != kNone;
            if (adds || !(gathers || apart) || known % record.shuffle != 0) return false;
        } else {
            known = wanted;
        }
        if (operation.kind() != Kind::pointwise || record.inputs[1] == kNone) continue;
        const auto mode = static_cast<Pointwise>(operation.param(0));
        const bool gate = mode == Pointwise::gate || mode == Pointwise::gate_sum;
        if (!gate && !apart && strips_[program.values[record.inputs[1]].buffer] != wanted) return false;
    }
    return true;
}

size_t Workspace::row_floats(const Program& program, uint32_t buffer) const {
    return static_cast<size_t>(program.buffer_channels[buffer]) * static_cast<size_t>(strips_[buffer]) *
           static_cast<size_t>(program.kernels->lanes);
}

// A convolution's cost by its FMAs, 16 in the time in which 4 floats are read or written.
Work Workspace::work_of(const Program& program, const Stage& stage) const {
    const uint32_t shown = stage.value != kNone ? stage.value : stage.reads[0].value;
    const uint32_t out = program.values[shown].buffer;
    Work work{shapes_[out].height, 0.0, 0.0, 1, ceil_div(strips_[out], kTileColumns), stage.slot, stage.read_here, false};
    const auto add = [&](uint32_t value) {
        const uint32_t buffer = program.values[value].buffer;
        const double ratio = static_cast<double>(shapes_[buffer].height) / static_cast<double>(work.rows);
        const auto lanes = static_cast<double>(strips_[buffer] * program.kernels->lanes);
        work.row_bytes += program.values[value].channels * lanes * ratio * sizeof(float);
    };
    for (const Read& read : stage.reads) {
        if (read.value != kNone) add(read.value);
    }
    if (stage.value != kNone) add(stage.value);
    work.row_cost = work.row_bytes / 16;
    const std::vector<Conv>* convs = stage.role == Role::compute ? &program.operations[stage.index].convs : nullptr;
    if (convs != nullptr && !convs->empty()) {
        const Conv* conv = convs->data();
        const double weights = static_cast<double>(program.operations[stage.index].record.data[kWeights].bytes) / 4;
        const double products = conv->method == Method::winograd ? weights / 4 : weights;
        work.row_cost += products * static_cast<double>(shapes_[out].width) / (16 * conv->shuffle * conv->shuffle);
        work.columns = ceil_div(strips_[out], int64_t{conv->tile_columns} * conv->shuffle);
        for (const Conv& packing : *convs) work.unit = std::max(work.unit, int64_t{packing.tile_rows} * conv->shuffle);
    }
    if (stage.slot != kNone) {
        const Slot& slot = stages.slots[stage.slot];
        work.kept = slot.first != slot.last;
    }
    return work;
}

void Workspace::schedule(const Program& program) {
    schedules.clear();
    most_stages_ = 0;
    int parts = 1;
    for (const Segment& segment : stages.segments) {
        std::vector<Work> works;
        std::vector<Link> links;
        for (size_t s = segment.first; segment.by_rows && s < segment.stop; ++s) {
            const Stage& stage = stages.all[s];
            works.push_back(work_of(program, stage));
            for (int i = 0; i < 2; ++i) {
                const Read& read = stage.reads[i];
                if (read.writers.empty()) continue;
                const int64_t in = shapes_[program.values[read.value].buffer].height;
                Reach reach;
                reach.in = reach.out = in;
                if (stage.role == Role::compute) {
                    reach = reach_of(program.operations[stage.index], i, in, works.back().rows);
                }
                for (uint32_t writer : read.writers) {
                    links.push_back({s - segment.first, writer - segment.first, reach});
                }
            }
        }
        most_stages_ = std::max(most_stages_, works.size());
        schedules.push_back(segment.by_rows ? Schedule(std::move(works), std::move(links), threads)
                                            : Schedule());
        parts = std::max(parts, schedules.back().parts());
    }
    counts_.assign(2 * most_stages_ * static_cast<size_t>(threads), 0);
    computed_ = std::make_unique<std::atomic<int64_t>[]>(most_stages_ * static_cast<size_t>(parts));
}

// Slots within a segment are rings of rows, each thread's own or shared as bands are, where that takes less than the image.
void Workspace::choose_held() {
    places_.assign(stages.slots.size(), Place{true, 0, 0});
    for (size_t g = 0; g < stages.segments.size(); ++g) {
        const Segment& segment = stages.segments[g];
        for (size_t s = segment.first; segment.by_rows && s < segment.stop; ++s) {
            if (stages.all[s].slot == kNone) continue;
            Place& place = places_[stages.all[s].slot];
            place.held = std::max(place.held, schedules[g].held(s - segment.first));
        }
    }
    for (size_t i = 0; i < places_.size(); ++i) {
        const Slot& slot = stages.slots[i];
        const int64_t rows = shapes_[slot.buffer].height;
        const Schedule& own = schedules[slot.first];
        const bool local = slot.first == slot.last && stages.segments[slot.first].by_rows;
        places_[i].whole = !local || places_[i].held * std::min(own.parts(), threads) >= rows;
        if (places_[i].whole) places_[i].held = rows;
    }
}

// Whole slots first, those of one time beside each other; then rings, each thread's or shared, then edges.
void Workspace::place(const Program& program) {
    std::vector<size_t> sizes(places_.size());
    for (size_t i = 0; i < places_.size(); ++i) {
        const uint32_t buffer = stages.slots[i].buffer;
        const double floats = static_cast<double>(row_floats(program, buffer)) * static_cast<double>(places_[i].held);
        if (floats > static_cast<double>(kLargestArena)) throw Error("not enough memory for this image");
        sizes[i] = (static_cast<size_t>(floats) + 2 * kSlack + 15) / 16 * 16;
    }
    const size_t whole = place_whole(sizes);
    std::vector<size_t> rings(stages.segments.size());
    size_t common = 0;  // floats of the rings of a segment whose bands are shared
    thread_floats_ = 0;
    for (size_t i = 0; i < places_.size(); ++i) {
        if (places_[i].whole) continue;
        size_t& ring = rings[stages.slots[i].first];
        places_[i].offset = whole + ring;
        ring += sizes[i];
        size_t& most = schedules[stages.slots[i].first].shared() ? common : thread_floats_;
        most = std::max(most, ring);
    }
    edges_at_ = whole + std::max(thread_floats_ * static_cast<size_t>(threads), common);
    edge_offsets_.assign(stages.all.size(), 0), edge_floats_.assign(stages.segments.size(), 0);
    size_t most = 0;
    for (size_t g = 0; g < stages.segments.size(); ++g) {
        const Segment& segment = stages.segments[g];
        for (size_t s = segment.first; segment.by_rows && s < segment.stop; ++s) {
            const Stage& stage = stages.all[s];
            if (stage.slot == kNone || places_[stage.slot].whole) continue;
            edge_offsets_[s] = edge_floats_[g];
            const ValueRecord& value = program.values[stage.value];
            edge_floats_[g] += row_floats(program, value.buffer) / program.buffer_channels[value.buffer] *
                               value.channels * static_cast<size_t>(schedules[g].edge(s - segment.first));
        }
        most = std::max(most, edge_floats_[g] * static_cast<size_t>(std::max(schedules[g].parts() - 1, 0)));
    }
    const size_t end = edges_at_ + most;
    if (end > kLargestArena) throw Error("not enough memory for this image");
    if (end > arena_floats_) {
        arena_.reset();
        arena_floats_ = 0;
        arena_ = aligned<float>(end);
        arena_floats_ = end;
    }
}

// Largest first, each at the first gap among those of segments that it shares.
size_t Workspace::place_whole(const std::vector<size_t>& sizes) {
    std::vector<size_t> order, placed;  // the latter by offset
    for (size_t i = 0; i < places_.size(); ++i) {
        if (places_[i].whole) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });
    size_t end = 0;
    for (size_t i : order) {
        const Slot& own = stages.slots[i];
        size_t at = 0;
        for (size_t other : placed) {
            const Slot& there = stages.slots[other];
            if (own.first > there.last || there.first > own.last) continue;
            if (at + sizes[i] <= places_[other].offset) break;
            at = std::max(at, places_[other].offset + sizes[other]);
        }
        places_[i].offset = at;
        end = std::max(end, at + sizes[i]);
        if (end > kLargestArena) throw Error("not enough memory for this image");
        placed.insert(std::upper_bound(placed.begin(), placed.end(), i,
                                       [&](size_t a, size_t b) { return places_[a].offset < places_[b].offset; }),
                      i);
    }
    return end;
}

View Workspace::view(const Program& program, uint32_t value, uint32_t slot, int thread) const {
    if (value == kNone) return {};
    const ValueRecord& record = program.values[value];
    const Place& at = places_[slot];
    View view;
    view.channels = record.channels;
    view.height = shapes_[record.buffer].height, view.width = shapes_[record.buffer].width;
    view.strip = strips_[record.buffer];
    view.plane = view.strip * program.kernels->lanes;
    view.row = view.plane * program.buffer_channels[record.buffer];
    view.held = at.held;
    const bool common = at.whole || schedules[stages.slots[slot].first].shared();
    const size_t own = common ? 0 : static_cast<size_t>(thread) * thread_floats_;
    view.data = arena_.get() + own + at.offset + kSlack + static_cast<ptrdiff_t>(record.first) * view.plane;
    return view;
}

}  // namespace nmk
