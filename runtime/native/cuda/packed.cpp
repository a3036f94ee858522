// Packed bytes of one convolution -> a Layer: every number is checked here, once.
#include "packed.h"

#include <cstring>

namespace nmk_cuda {
namespace {

constexpr uint32_t kMagic = 0x434B4D4E;
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMostChannels = 1 << 16;
constexpr uint32_t kMostLevels = 8;

// In the order of cuda_pack.py's header.
struct Header {
    uint32_t magic, version, size, brain, channels, rows, kernel_height, kernel_width, stride;
    uint32_t pad_top, pad_left, pad_bottom, pad_right, activation, residual, shuffle, outputs, levels;
    float slope;
    uint32_t bias;
};

struct LevelRecord {
    uint32_t kind, gathers, offset, reserved;
};

const char* header_problem(const Header& h, size_t size) {
    if (h.magic != kMagic) return "not packed weights";
    if (h.version != kVersion) return "packed by another version of nmcompile";
    if (h.size != size) return "cut short, or followed by something else";
    if (h.brain > 1) return "a type that is neither fp16 nor bf16";
    if (h.channels - 1 >= kMostChannels || h.rows - 1 >= kMostChannels) return "an impossible number of channels";
    if (h.kernel_height != h.kernel_width || (h.kernel_height != 1 && h.kernel_height != 3)) {
        return "kernels other than 1x1 and 3x3";
    }
    if (h.stride != 1 && h.stride != 2) return "strides other than 1 and 2";
    if (h.pad_top > 64 || h.pad_left > 64 || h.pad_bottom > 64 || h.pad_right > 64) return "padding beyond 64";
    if (h.activation > 2) return "an unknown activation";
    if (h.residual > 2) return "an unknown place of the residual";
    if (h.shuffle - 1 >= 8 || h.rows % (h.shuffle * h.shuffle)) return "a pixel shuffle that its channels do not allow";
    if (h.outputs != 64 && !(h.outputs == 16 && h.stride == 1)) return "an unknown block of outputs";
    if (h.levels - 1 >= kMostLevels) return "more than 8 levels, or none";
    return nullptr;
}

bool inside(uint64_t offset, uint64_t bytes, size_t size) {
    return offset % kVectorBytes == 0 && offset <= size && bytes <= size - offset;
}

// Whether all places of gathered channels are those of halves within a chunk.
bool gathers_inside(const unsigned char* steps, size_t count, const Level& level) {
    const size_t places = static_cast<size_t>(level.gathers * kGatherBytes);
    for (size_t step = 0; step < count; ++step) {
        const unsigned char* end = steps + (step + 1) * static_cast<size_t>(level.step_bytes);
        for (const unsigned char* place = end - places; place < end; ++place) {
            if (*place >= kPixelBytes || *place % 2) return false;
        }
    }
    return true;
}

const char* read_level(const unsigned char* bytes, size_t size, const LevelRecord& record, Layer& layer) {
    if (record.kind > 2) return "an unknown kind of weights";
    const Kind kind = static_cast<Kind>(record.kind);
    const bool gathered = kind == Kind::kGathered;
    if (gathered ? record.gathers - 1 >= kMostGathers || layer.outputs != 64 : record.gathers != 0) {
        return "an impossible number of gathered channels";
    }
    const int gathers = static_cast<int>(record.gathers);
    const Level level{kind, gathers, step_bytes(kind, layer.outputs / 16, gathers), record.offset};
    const size_t steps = static_cast<size_t>(layer.row_blocks()) * static_cast<size_t>(layer.chunks()) *
                         static_cast<size_t>(layer.kernel_height * layer.kernel_width);
    if (!inside(level.offset, steps * static_cast<size_t>(level.step_bytes), size)) return "weights outside of it";
    if (gathered && !gathers_inside(bytes + level.offset, steps, level)) return "gathered channels outside of a chunk";
    layer.levels.push_back(level);
    return nullptr;
}

Layer layer_of(const Header& h) {
    const auto number = [](uint32_t value) { return static_cast<int>(value); };
    return {h.brain == 1, number(h.channels), number(h.rows), number(h.kernel_height), number(h.kernel_width),
            number(h.stride), number(h.pad_top), number(h.pad_left), number(h.pad_bottom), number(h.pad_right),
            static_cast<Activation>(h.activation), h.slope, static_cast<Residual>(h.residual), number(h.shuffle),
            number(h.outputs), h.bias, {}};
}

}  // namespace

bool read_layer(const unsigned char* bytes, size_t size, Layer& layer, std::string& problem) {
    Header header;
    const char* found = "too short for a header";
    if (size >= sizeof header) {
        std::memcpy(&header, bytes, sizeof header);
        found = header_problem(header, size);
    }
    if (!found) {
        layer = layer_of(header);
        const size_t bias_bytes = static_cast<size_t>(layer.row_blocks() * layer.outputs) * sizeof(float);
        if (!inside(header.bias, bias_bytes, size)) found = "a bias outside of it";
        if (size < sizeof header + header.levels * sizeof(LevelRecord)) found = "too short for its levels";
    }
    for (uint32_t i = 0; !found && i < header.levels; ++i) {
        LevelRecord record;
        std::memcpy(&record, bytes + sizeof header + i * sizeof record, sizeof record);
        found = read_level(bytes, size, record, layer);
    }
    if (found) {
        problem = std::string("packed weights: found ") + found +
                  "; supported are 1x1 and 3x3, stride 1 and 2, fp16 and bf16, up to 8 levels; pack the layer again";
    }
    return !found;
}

}  // namespace nmk_cuda
