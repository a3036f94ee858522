// Untrusted bytes -> a Program in which every index, size and parameter is within its bounds.

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>

#include "folds.h"
#include "program.h"
#include "turned.h"
#include "unread.h"

namespace nmk {

namespace {

constexpr uint32_t kMostRecords = 1 << 14;
constexpr uint32_t kMostChannels = 1 << 14;
constexpr int kLargestKernel = 64, kLargestStride = 16, kLargestDilation = 64, kLargestPad = 1 << 16;
constexpr uint64_t kLargestWeight = uint64_t{1} << 28;

[[noreturn]] void fail(const std::string& what) { throw Error("damaged program: " + what); }

void require(bool condition, const char* what) {
    if (!condition) fail(what);
}

class Reader {
public:
    Reader(const void* bytes, size_t size) : at_(static_cast<const char*>(bytes)), left_(size) {}

    template <class T>
    T next() {
        T value;
        require(left_ >= sizeof(T), "it ends too early");
        std::memcpy(&value, at_, sizeof(T));
        at_ += sizeof(T), left_ -= sizeof(T);
        return value;
    }

    const char* rest() const { return at_; }
    size_t left() const { return left_; }

private:
    const char* at_;
    size_t left_;
};

// The part of the program behind all records.
struct Data {
    const char* bytes;
    uint64_t size;

    const char* find(const Extent& extent) const {
        require(extent.offset <= size && extent.bytes <= size - extent.offset, "data out of bounds");
        return bytes + extent.offset;
    }

    std::vector<float> floats(const Extent& extent, uint64_t count, const char* what) const {
        require(extent.bytes == count * sizeof(float), what);
        const char* from = find(extent);  // before memory is taken for it
        std::vector<float> found(static_cast<size_t>(count));
        if (count != 0) std::memcpy(found.data(), from, extent.bytes);
        return found;
    }

    std::vector<float> floats_or_none(const Extent& extent, uint64_t count, const char* what) const {
        return extent.bytes == 0 ? std::vector<float>{} : floats(extent, count, what);
    }
};

bool between(int value, int low, int high) { return value >= low && value <= high; }

void check_window(const OperationRecord& record) {
    const int32_t* p = record.params;
    for (int axis = 0; axis < 2; ++axis) {
        require(between(p[kKernelY + axis], 1, kLargestKernel), "kernel size");
        require(between(p[kStrideY + axis], 1, kLargestStride), "stride");
        require(between(p[kDilationY + axis], 1, kLargestDilation), "dilation");
    }
    const int reach_x = (p[kKernelX] - 1) * p[kDilationX], reach_y = (p[kKernelY] - 1) * p[kDilationY];
    require(between(p[kPadLeft], 0, reach_x) && between(p[kPadRight], 0, reach_x), "padding");
    require(between(p[kPadTop], 0, reach_y) && between(p[kPadBottom], 0, reach_y), "padding");
}

std::vector<float> unpack(const Data& data, const OperationRecord& record, uint64_t count) {
    if (record.params[kFamily] == static_cast<int32_t>(Family::dense)) {
        return data.floats(record.data[kWeights], count, "size of weights");
    }
    require(record.data[kMask].bytes == (count + 7) / 8, "size of a mask");
    const char* mask = data.find(record.data[kMask]);
    const auto kept = [mask](uint64_t i) { return (mask[i / 8] >> (i % 8) & 1) != 0; };
    uint64_t ones = 0;
    for (uint64_t i = 0; i < count; ++i) ones += kept(i);
    const std::vector<float> values = data.floats(record.data[kWeights], ones, "size of weights");
    std::vector<float> weights(static_cast<size_t>(count));
    size_t next = 0;
    for (uint64_t i = 0; i < count; ++i) {
        if (kept(i)) weights[static_cast<size_t>(i)] = values[next++];
    }
    return weights;
}

// For each weight [out][inputs][kh][kw] the least level that keeps it.
std::vector<uint8_t> unpack_levels(const Data& data, const OperationRecord& record,
                                   const std::vector<float>& weights, size_t inputs, uint32_t count) {
    const Extent& extent = record.data[kLevels];
    const char* bytes = data.find(extent);
    const auto last = static_cast<uint8_t>(extent.bytes == 0 ? 0 : count - 1);
    const int shared = extent.bytes == 0 ? 0 : bytes[0];
    require(between(shared, 0, kOverOutputs | kOverPositions), "form of levels");
    const auto positions = static_cast<size_t>(record.params[kKernelY] * record.params[kKernelX]);
    const size_t outputs = weights.size() / (inputs * positions);
    const size_t places = (shared & kOverPositions) != 0 ? 1 : positions;
    const auto of_weight = [&](size_t i) {
        const size_t output = (shared & kOverOutputs) != 0 ? 0 : i / (inputs * positions);
        return (output * inputs + i / positions % inputs) * places + (places == 1 ? 0 : i % positions);
    };
    std::vector<uint8_t> found(((shared & kOverOutputs) != 0 ? 1 : outputs) * inputs * places, kNever);
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] != 0.0f) found[of_weight(i)] = last;
    }
    uint64_t at = 8;  // bits: the first byte is read
    for (uint8_t level = last; level > 0; --level) {
        for (uint8_t& own : found) {
            if (own != level) continue;
            require(at / 8 < extent.bytes, "size of levels");
            own = static_cast<uint8_t>(own - (bytes[at / 8] >> (at % 8) & 1));
            ++at;
        }
    }
    require(extent.bytes == 0 || extent.bytes == (at + 7) / 8, "size of levels");
    std::vector<uint8_t> levels(weights.size(), kNever);
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] != 0.0f) levels[i] = found[of_weight(i)];
    }
    return levels;
}

class Loader {
public:
    Loader(Program& program, Data data) : program_(program), data_(data) {}

    void add(const OperationRecord& record) {
        Operation operation;
        operation.record = record;
        require(record.output < program_.values.size(), "output of an operation");
        require(record.activation <= static_cast<uint32_t>(Activation::square_root), "activation");
        const uint32_t most = operation.kind() == Kind::conv2d ? kLargestFactor : 1;
        require(record.shuffle >= 1 && record.shuffle <= most, "factor");
        for (uint32_t input : record.inputs) check_input(record, input);
        require(record.inputs[0] != kNone, "an operation without input");
        switch (operation.kind()) {
            case Kind::conv2d: add_conv(operation); break;
            case Kind::pointwise: add_pointwise(operation); break;
            case Kind::pixel_shuffle: check_factor(record, true); break;
            case Kind::nearest: check_factor(record, false); break;
            case Kind::bilinear: check_bilinear(record); break;
            case Kind::max_pool: check_pool(record); break;
            case Kind::moments: check_moments(record); break;
            case Kind::pad: check_pad(record); break;
            default: fail("kind of an operation");
        }
        if (record.activation == static_cast<uint32_t>(Activation::prelu)) {
            operation.values[kSlopes] = data_.floats(record.data[kSlopes], computed_channels(record), "slopes");
            if (program_.turned) turn_channels(record, operation.values[kSlopes]);
        }
        program_.operations.push_back(std::move(operation));
        layers_.resize(program_.operations.size());
        written_[program_.values[record.output].buffer] = true;
    }

    // Packs the convolutions, the last first: what is read of a result, its readers' packings say.
    void pack() {
        const std::vector<std::vector<std::vector<Same>>> same = repeated_channels();
        std::vector<Readers> readers(program_.levels, Readers(program_));
        for (size_t i = program_.operations.size(); i-- > 0;) {
            Operation& operation = program_.operations[i];
            if (operation.kind() == Kind::conv2d) pack_conv(operation, layers_[i], same[i], readers);
            for (size_t level = 0; level < readers.size(); ++level) {
                operation.idle.push_back(!readers[level].any_of(operation));
                if (operation.idle[level]) continue;
                const bool conv = operation.kind() == Kind::conv2d;
                readers[level].add(operation, conv ? &operation.convs[operation.served[level]] : nullptr);
            }
        }
    }

    // Of every operation at every level, what its input channels are.
    std::vector<std::vector<std::vector<Same>>> repeated_channels() const {
        std::vector<std::vector<std::vector<Same>>> found(program_.operations.size());
        for (uint32_t level = 0; level < program_.levels; ++level) {
            Folds own(program_, static_cast<int>(level));
            for (size_t i = 0; i < program_.operations.size(); ++i) {
                found[i].push_back(own.inputs_of(program_.operations[i]));
                own.add(program_.operations[i], layers_[i]);
            }
        }
        return found;
    }

    void mark_written(uint32_t value) { written_[program_.values[value].buffer] = true; }
    bool is_written(uint32_t value) const { return written_[program_.values[value].buffer]; }

private:
    uint32_t channels_of(uint32_t value) const { return program_.values[value].channels; }

    uint32_t computed_channels(const OperationRecord& record) const {
        return channels_of(record.output) * record.shuffle * record.shuffle;
    }

    void check_input(const OperationRecord& record, uint32_t input) const {
        if (input == kNone) return;
        require(input < program_.values.size(), "input of an operation");
        require(is_written(input), "an input that nothing wrote");
        const ValueRecord &x = program_.values[input], &y = program_.values[record.output];
        const bool apart = x.first + x.channels <= y.first || y.first + y.channels <= x.first;
        require(x.buffer != y.buffer || apart, "an operation that writes over its own input");
    }

    void same_channels(const OperationRecord& record, int input) const {
        require(record.inputs[input] != kNone, "a missing input");
        require(channels_of(record.inputs[input]) == channels_of(record.output), "channels");
    }

    void add_conv(Operation& operation) {
        const OperationRecord& record = operation.record;
        const int32_t* p = record.params;
        check_window(record);
        const uint32_t in = channels_of(record.inputs[0]), out = computed_channels(record);
        require(p[kGroups] >= 1, "groups");
        const auto groups = static_cast<uint32_t>(p[kGroups]);
        require(in % groups == 0 && out % groups == 0, "groups");
        require(between(p[kResidual], 0, 2) && between(p[kFamily], 0, 2), "form of a convolution");
        require(between(p[kPrecision], 0, 2), "precision of a convolution");
        require((p[kResidual] != 0) == (record.inputs[1] != kNone), "residual");
        require(record.shuffle == 1 || p[kResidual] == 0, "residual");
        if (record.inputs[1] != kNone) same_channels(record, 1);

        const uint64_t count = uint64_t{out} * (in / groups) * static_cast<uint64_t>(p[kKernelY]) *
                               static_cast<uint64_t>(p[kKernelX]);
        require(count <= kLargestWeight, "size of weights");
        operation.values[kBias] = data_.floats_or_none(record.data[kBias], out, "size of a bias");
        std::vector<float> weights = unpack(data_, record, count);
        std::vector<uint8_t> levels = unpack_levels(data_, record, weights, in / groups, program_.levels);
        layers_.resize(program_.operations.size() + 1);
        layers_.back() = {static_cast<int>(in), static_cast<int>(out), std::move(weights), std::move(levels)};
        if (!program_.turned) return;
        require(out / groups % (record.shuffle * record.shuffle) == 0, "a shuffle across groups");
        turn_layer(record, layers_.back());
        turn_channels(record, operation.values[kBias]);
    }

    void pack_conv(Operation& operation, const Layer& layer, const std::vector<std::vector<Same>>& same,
                   const std::vector<Readers>& readers) const {
        std::vector<Folded> folded;
        for (size_t level = 0; level < same.size(); ++level) {
            folded.push_back(fold(operation, layer, static_cast<int>(level), same[level]));
        }
        std::vector<std::vector<int>> outputs;
        for (const Readers& own : readers) outputs.push_back(own.outputs_of(operation));
        Packings made = pack_levels(operation.record, layer, folded, outputs, *program_.kernels);
        require(!made.served.empty(), "a convolution with too large a window");
        operation.convs = std::move(made.convs), operation.served = std::move(made.served);
    }

    void add_pointwise(Operation& operation) const {
        const OperationRecord& record = operation.record;
        require(between(record.params[0], 0, 5), "pointwise form");
        same_channels(record, 0);
        const bool affine = record.params[0] == static_cast<int32_t>(Pointwise::affine);
        if (affine) {
            require(record.inputs[1] == kNone, "a second input that nothing uses");
            for (int i = 0; i < 2; ++i) {
                operation.values[i] = data_.floats_or_none(
                    record.data[i], channels_of(record.output), "size of a scale or shift");
            }
        } else {
            const auto mode = static_cast<Pointwise>(record.params[0]);
            const bool gate = mode == Pointwise::gate || mode == Pointwise::gate_sum;
            const bool single = record.inputs[1] != kNone && channels_of(record.inputs[1]) == 1;
            if (gate || !single) same_channels(record, 1);
        }
    }

    void check_factor(const OperationRecord& record, bool shuffle) const {
        require(between(record.params[0], 1, kLargestFactor), "factor");
        require(record.inputs[1] == kNone, "a second input that nothing uses");
        const auto factor = static_cast<uint32_t>(record.params[0]);
        const uint32_t times = shuffle ? factor * factor : 1;
        require(channels_of(record.inputs[0]) == channels_of(record.output) * times, "channels");
    }

    void check_bilinear(const OperationRecord& record) const {
        same_channels(record, 0);
        require(between(record.params[0], 0, 1), "bilinear");
        require(record.inputs[1] != kNone || between(record.params[1], 1, kLargestFactor), "factor");
    }

    void check_pool(const OperationRecord& record) const {
        check_window(record);
        same_channels(record, 0);
        const int32_t* p = record.params;
        require(p[kPadLeft] * 2 <= p[kKernelX] && p[kPadTop] * 2 <= p[kKernelY], "padding");
        require(p[kPadLeft] == p[kPadRight] && p[kPadTop] == p[kPadBottom], "padding");
        require(p[kDilationX] == 1 && p[kDilationY] == 1, "dilation");
        require(record.inputs[1] == kNone, "a second input that nothing uses");
    }

    void check_moments(const OperationRecord& record) const {
        same_channels(record, 0);
        require(between(record.params[0], 0, 1) && between(record.params[1], 0, 1), "moments");
        require(record.inputs[1] == kNone, "a second input that nothing uses");
    }

    void check_pad(const OperationRecord& record) const {
        same_channels(record, 0);
        for (int i = kLeft; i <= kBottom; ++i) {
            require(between(record.params[i], -kLargestPad, kLargestPad), "padding");
        }
        require(between(record.params[kBorder], 0, 2), "border");
        require(record.inputs[1] == kNone, "a second input that nothing uses");
    }

    Program& program_;
    Data data_;
    std::vector<Layer> layers_;  // of operations that are convolutions
    std::vector<bool> written_ = std::vector<bool>(program_.buffer_channels.size());
};

void read_tables(Program& program, const HeaderRecord& header, Reader& reader) {
    for (uint32_t i = 0; i < header.buffers; ++i) {
        program.buffer_channels.push_back(reader.next<uint32_t>());
        require(program.buffer_channels.back() >= 1, "an empty buffer");
        require(program.buffer_channels.back() <= kMostChannels, "a buffer with too many channels");
    }
    for (uint32_t i = 0; i < header.values; ++i) {
        const auto value = reader.next<ValueRecord>();
        require(value.buffer < header.buffers && value.channels >= 1, "a value");
        const uint32_t channels = program.buffer_channels[value.buffer];
        require(value.channels <= channels && value.first <= channels - value.channels, "a value");
        program.values.push_back(value);
    }
    for (uint32_t i = 0; i < header.outputs; ++i) {
        program.outputs.push_back(reader.next<uint32_t>());
        require(program.outputs.back() < header.values, "an output");
    }
}

}  // namespace

std::unique_ptr<Program> load_program(const void* bytes, size_t size, bool turned) {
    auto program = std::make_unique<Program>();
    Reader reader(bytes, size);
    const auto header = reader.next<HeaderRecord>();
    require(header.magic == kMagic, "it does not begin as one");
    if (header.version != kFormatVersion) throw Error("a program of another version");
    require(header.bytes == size, "its size is not what it says");
    require(header.isa <= static_cast<uint32_t>(Isa::amx), "instruction set");
    require(header.levels >= 1 && header.levels <= kMostLevels && header.zero == 0, "number of levels");
    program->levels = header.levels, program->turned = turned;
    const char* why_not = "";
    program->kernels = choose_kernels(static_cast<Isa>(header.isa), &why_not);
    if (program->kernels == nullptr) throw Error(why_not);
    for (uint32_t count : {header.buffers, header.values, header.operations, header.inputs, header.outputs}) {
        require(count >= 1 && count <= kMostRecords, "a table's size");
    }
    require(header.inputs <= header.values, "a table's size");
    program->inputs = header.inputs;
    read_tables(*program, header, reader);
    std::vector<OperationRecord> records;
    for (uint32_t i = 0; i < header.operations; ++i) records.push_back(reader.next<OperationRecord>());
    const size_t padding = (64 - (size - reader.left()) % 64) % 64;
    require(reader.left() >= padding, "it ends too early");
    Loader loader(*program, Data{reader.rest() + padding, reader.left() - padding});
    for (uint32_t i = 0; i < header.inputs; ++i) loader.mark_written(i);
    for (const OperationRecord& record : records) loader.add(turned_record(record, turned));
    for (uint32_t output : program->outputs) require(loader.is_written(output), "an output that nothing wrote");
    loader.pack();
    return program;
}

}  // namespace nmk
