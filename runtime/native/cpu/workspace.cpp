// A program and its inputs' sizes -> strip widths, memory offsets by lifetime, and tile plans.

#include "workspace.h"

#include <unistd.h>

#include <algorithm>

namespace nmk {

namespace {

// Vectors that a strip-edge load may reach beyond a buffer, at most one on either side.
constexpr size_t kSlack = 32;
constexpr uint64_t kLargestArena = uint64_t{1} << 34;  // floats: 64 GiB
constexpr int64_t kTrials = 64;

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

struct Life {
    size_t first, last;
};

std::vector<Life> lifetimes(const Program& program) {
    std::vector<Life> lives(program.buffer_channels.size(), Life{SIZE_MAX, 0});
    const auto touch = [&](uint32_t value, size_t when) {
        if (value == kNone) return;
        Life& life = lives[program.values[value].buffer];
        life = {std::min(life.first, when), std::max(life.last, when)};
    };
    for (uint32_t i = 0; i < program.inputs; ++i) touch(i, 0);
    for (size_t i = 0; i < program.operations.size(); ++i) {
        const OperationRecord& record = program.operations[i].record;
        for (uint32_t input : record.inputs) touch(input, i + 1);
        touch(record.output, i + 1);
    }
    for (uint32_t output : program.outputs) touch(output, program.operations.size() + 1);
    return lives;
}

Aligned<uint32_t> row_mask(const View& view, int lanes) {
    Aligned<uint32_t> mask = aligned<uint32_t>(static_cast<size_t>(view.plane));
    for (int64_t x = 0; x < view.width; ++x) mask[static_cast<size_t>(x % view.strip * lanes + x / view.strip)] = ~0u;
    return mask;
}

}  // namespace

Program::Program() = default;

Program::~Program() {
    for (auto& workspace : idle) {
        // The threads of a parent process are not there to be joined.
        if (workspace->process != getpid()) static_cast<void>(workspace.release());
    }
}

Workspace::Workspace(const Program&, int threads) : pool(threads), process(getpid()) {}

void Workspace::fit(const Program& program, const std::vector<Shape>& sizes) {
    if (sizes == sizes_) return;
    sizes_.clear();  // what follows may throw
    shapes_ = infer_shapes(program, sizes);
    int64_t extra = 0;
    while (!lay_strips(program, sizes, extra)) {
        if (++extra == kTrials) throw Error("no strip width suits all layers at this image width");
    }
    place(program);
    plans.clear(), masks.clear();
    plans.resize(program.operations.size()), masks.resize(program.operations.size());
    size_t scratch = 0;
    for (size_t i = 0; i < program.operations.size(); ++i) {
        const Operation& operation = program.operations[i];
        if (operation.kind() == Kind::moments) {
            masks[i] = row_mask(view(program, operation.record.inputs[0]), program.kernels->lanes);
        }
        if (operation.conv == nullptr) continue;
        plans[i] = plan_conv(*operation.conv, *program.kernels, view(program, operation.record.inputs[0]),
                             view(program, operation.record.output));
        scratch = std::max(scratch, conv_scratch(*operation.conv, *program.kernels));
    }
    if (scratch > scratch_floats_) {
        scratch_ = aligned<float>(scratch * static_cast<size_t>(pool.threads()));
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
            const int64_t stride = operation.param(kStrideX);
            if (record.inputs[1] != kNone) return strip(record.inputs[1]);
            return in % stride == 0 && in / stride >= least ? in / stride : least;
        }
        case Kind::pixel_shuffle:
        case Kind::nearest: return in * operation.param(0);
        case Kind::bilinear: return strip(record.inputs[1]);
        case Kind::moments: return 1;
        case Kind::pointwise: return in;
    }
    return least;
}

// Inputs whose widths are multiples of the narrowest one's get strips that are too.
bool Workspace::lay_strips(const Program& program, const std::vector<Shape>& sizes, int64_t extra) {
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
            const bool free = operation.kind() == Kind::max_pool || operation.kind() == Kind::bilinear ||
                              (operation.kind() == Kind::conv2d && record.inputs[1] == kNone);
            if (!free) return false;
        } else {
            known = wanted;
        }
        if (operation.kind() != Kind::pointwise || record.inputs[1] == kNone) continue;
        const auto mode = static_cast<Pointwise>(operation.param(0));
        const bool gate = mode == Pointwise::gate || mode == Pointwise::gate_sum;
        if (!gate && strips_[program.values[record.inputs[1]].buffer] != wanted) return false;
    }
    return true;
}

// Every buffer at the lowest offset where no buffer lies that is alive at the same time.
void Workspace::place(const Program& program) {
    const std::vector<Life> lives = lifetimes(program);
    const size_t count = shapes_.size();
    std::vector<size_t> sizes(count), order(count);
    for (size_t i = 0; i < count; ++i) {
        const auto floats = static_cast<double>(program.buffer_channels[i]) *
                            static_cast<double>(shapes_[i].height) *
                            static_cast<double>(strips_[i]) * program.kernels->lanes;
        if (floats > static_cast<double>(kLargestArena)) throw Error("not enough memory for this image");
        sizes[i] = (static_cast<size_t>(floats) + 2 * kSlack + 15) / 16 * 16;
        order[i] = i;
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] > sizes[b]; });
    offsets_.assign(count, 0);
    std::vector<size_t> placed;  // by offset
    size_t end = 0;
    for (size_t i : order) {
        if (lives[i].first == SIZE_MAX) continue;
        size_t at = 0;
        for (size_t other : placed) {
            const bool together = lives[i].first <= lives[other].last && lives[other].first <= lives[i].last;
            if (!together) continue;
            if (at + sizes[i] <= offsets_[other]) break;
            at = std::max(at, offsets_[other] + sizes[other]);
        }
        offsets_[i] = at;
        end = std::max(end, at + sizes[i]);
        if (end > kLargestArena) throw Error("not enough memory for this image");
        placed.insert(std::upper_bound(placed.begin(), placed.end(), i,
                                       [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; }),
                      i);
    }
    if (end > arena_floats_) {
        arena_.reset();
        arena_floats_ = 0;
        arena_ = aligned<float>(end);
        arena_floats_ = end;
    }
}

View Workspace::view(const Program& program, uint32_t value) const {
    if (value == kNone) return {};
    const ValueRecord& record = program.values[value];
    View view;
    view.channels = record.channels;
    view.height = shapes_[record.buffer].height, view.width = shapes_[record.buffer].width;
    view.strip = strips_[record.buffer];
    view.plane = view.strip * program.kernels->lanes;
    view.row = view.plane * program.buffer_channels[record.buffer];
    view.data = arena_.get() + offsets_[record.buffer] + kSlack +
                static_cast<ptrdiff_t>(record.first) * view.plane;
    return view;
}

}  // namespace nmk
