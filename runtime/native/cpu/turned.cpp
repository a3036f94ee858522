// Which way round an image is run, and what changes in a program where it is transposed.

#include "turned.h"

#include <algorithm>
#include <exception>
#include <utility>

namespace nmk {

namespace {

constexpr double kWorthwhile = 0.95;  // of an upright run's work: a gain of less may be the estimate's error
// The rows of wider images leave L2: EDSR takes 1.1 times as long a pixel at 256 x 2048 as at 2048 x 256.
constexpr int64_t kWidest = 1024;

// What a turned layer's output channel `to` was: the pixel shuffle in its store has rows for columns.
size_t source_of(const OperationRecord& record, size_t to) {
    const size_t factor = record.shuffle, phase = to % (factor * factor);
    return to - phase + phase % factor * factor + phase / factor;
}

double products_of(const Conv& conv) {
    double found = 0;
    for (const Part& part : conv.parts) {
        const auto inputs = static_cast<double>(part.used.size());
        const auto taps = static_cast<double>(conv.tap_offsets.size());
        found += conv.method == Method::sparse ? static_cast<double>(part.taps.size()) : inputs * conv.outputs * taps;
    }
    return conv.method == Method::winograd ? found / 4 : found;
}

double up(int64_t size, int64_t multiple) { return static_cast<double>((size + multiple - 1) / multiple * multiple); }

}  // namespace

OperationRecord turned_record(OperationRecord record, bool turned) {
    int32_t* p = record.params;
    const auto kind = static_cast<Kind>(record.kind);
    if (kind == Kind::pixel_shuffle) p[1] = turned;
    if (!turned) return record;
    if (kind == Kind::conv2d || kind == Kind::max_pool) {
        for (const int axis : {kKernelY, kStrideY, kDilationY}) std::swap(p[axis], p[axis + 1]);
        std::swap(p[kPadLeft], p[kPadTop]), std::swap(p[kPadRight], p[kPadBottom]);
    }
    if (kind == Kind::pad) std::swap(p[kLeft], p[kTop]), std::swap(p[kRight], p[kBottom]);
    return record;
}

void turn_layer(const OperationRecord& record, Layer& layer) {
    const auto rows = static_cast<size_t>(record.params[kKernelY]), columns = static_cast<size_t>(record.params[kKernelX]);
    const auto outputs = static_cast<size_t>(layer.outputs);
    const size_t each = layer.weights.size() / outputs, taps = rows * columns;
    Layer turned = layer;
    for (size_t out = 0; out < outputs; ++out) {
        const size_t source = source_of(record, out);
        for (size_t i = 0; i < each; ++i) {
            const size_t tap = i % taps, from = source * each + i - tap + tap % columns * rows + tap / columns;
            turned.weights[out * each + i] = layer.weights[from];
            turned.levels[out * each + i] = layer.levels[from];
        }
    }
    layer = std::move(turned);
}

void turn_channels(const OperationRecord& record, std::vector<float>& values) {
    const std::vector<float> upright = values;
    for (size_t i = 0; i < values.size(); ++i) values[i] = upright[source_of(record, i)];
}

Turned::Turned(const void* bytes, size_t size, const Program& upright) : lanes_(upright.kernels->lanes) {
    useless_ = upright.inputs != 1;
    if (useless_) return;
    bytes_.assign(static_cast<const char*>(bytes), static_cast<const char*>(bytes) + size);
    for (const Operation& operation : upright.operations) {
        if (operation.convs.empty()) continue;
        const Conv& conv = operation.convs.front();  // one way round for all levels, which share memory
        (conv.method == Method::winograd ? blocks_ : positions_) += products_of(conv);
    }
}

// A row is computed up to a whole vector, and to a whole block of these by Winograd's kernel.
double Turned::work(Shape size) const {
    const double each = blocks_ * up(size.width, int64_t{lanes_} * kWinogradBlock) + positions_ * up(size.width, lanes_);
    return each * static_cast<double>(size.height);
}

Program* Turned::faster(Shape size) {
    if (useless_ || std::min(size.height, size.width) < 1 || std::max(size.height, size.width) > kWidest) return nullptr;
    if (work({size.width, size.height}) >= kWorthwhile * work(size)) return nullptr;
    const std::lock_guard<std::mutex> lock(guard_);
    if (made_ == nullptr) {
        try {
            made_ = load_program(bytes_.data(), bytes_.size(), true);
        } catch (const std::exception&) {
            useless_ = true;
        }
        std::vector<char>().swap(bytes_);
    }
    return made_.get();
}

}  // namespace nmk
