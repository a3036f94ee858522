// A program and its inputs' sizes -> height and width of every buffer, or why there can be none.

#include <algorithm>
#include <string>

#include "program.h"

namespace nmk {

namespace {

// An operation may enlarge, but a program as a whole not without end.
constexpr int64_t kLargestScale = 64;
constexpr int64_t kLargestSide = int64_t{1} << 24;

int64_t reduced(int64_t size, int pads, int kernel, int dilation, int stride) {
    const int64_t room = size + pads - (static_cast<int64_t>(kernel) - 1) * dilation - 1;
    return room < 0 ? 0 : room / stride + 1;
}

Shape windowed(const Operation& operation, Shape in) {
    const int32_t* p = operation.record.params;
    return {reduced(in.height, p[kPadTop] + p[kPadBottom], p[kKernelY], p[kDilationY], p[kStrideY]),
            reduced(in.width, p[kPadLeft] + p[kPadRight], p[kKernelX], p[kDilationX], p[kStrideX])};
}

Shape padded(const Operation& operation, Shape in) {
    const int32_t* p = operation.record.params;
    const bool reflects = p[kBorder] == static_cast<int32_t>(Border::reflect);
    const bool low = std::max(p[kTop], p[kBottom]) >= in.height;
    if (reflects && (low || std::max(p[kLeft], p[kRight]) >= in.width)) {
        throw Error("the image is too small to be reflected at its edges: give a larger one");
    }
    return {in.height + p[kTop] + p[kBottom], in.width + p[kLeft] + p[kRight]};
}

class Inference {
public:
    Inference(const Program& program, const std::vector<Shape>& sizes)
        : program_(program), shapes_(program.buffer_channels.size()) {
        for (Shape size : sizes) {
            largest_ = {std::max(largest_.height, size.height), std::max(largest_.width, size.width)};
        }
        for (uint32_t i = 0; i < program.inputs; ++i) set(i, sizes[i]);
        for (const Operation& operation : program.operations) {
            set(operation.record.output, result(operation));
        }
    }

    std::vector<Shape> take() { return std::move(shapes_); }

private:
    Shape of(uint32_t value) const { return shapes_[program_.values[value].buffer]; }

    void set(uint32_t value, Shape shape) {
        const int64_t height = largest_.height, width = largest_.width;
        if (shape.height < 1 || shape.width < 1) {
            throw Error("the image is too small for this network: give a larger one");
        }
        if (shape.height > (height + 1) * kLargestScale || shape.width > (width + 1) * kLargestScale) {
            throw Error("the program enlarges its input more than 64 times");
        }
        Shape& known = shapes_[program_.values[value].buffer];
        if (known.height != 0 && !(known == shape)) {
            throw Error("parts of one buffer have different sizes");
        }
        known = shape;
    }

    Shape result(const Operation& operation) const {
        const OperationRecord& record = operation.record;
        const Shape in = of(record.inputs[0]);
        switch (operation.kind()) {
            case Kind::conv2d: {
                const Shape out = windowed(operation, in);
                if (record.inputs[1] != kNone && !(of(record.inputs[1]) == out)) {
                    throw Error("a residual has another size than what it is added to");
                }
                const auto factor = static_cast<int64_t>(record.shuffle);
                return {out.height * factor, out.width * factor};
            }
            case Kind::max_pool: return windowed(operation, in);
            case Kind::pixel_shuffle:
            case Kind::nearest: return {in.height * operation.param(0), in.width * operation.param(0)};
            case Kind::bilinear:
                if (record.inputs[1] != kNone) return of(record.inputs[1]);
                return {in.height * operation.param(1), in.width * operation.param(1)};
            case Kind::pad: return padded(operation, in);
            case Kind::moments: return {1, 1};
            case Kind::pointwise: check_pointwise(operation, in); return in;
        }
        return in;
    }

    void check_pointwise(const Operation& operation, Shape in) const {
        const uint32_t second = operation.record.inputs[1];
        if (second == kNone) return;
        const auto mode = static_cast<Pointwise>(operation.param(0));
        const bool gate = mode == Pointwise::gate || mode == Pointwise::gate_sum;
        if (!(of(second) == (gate ? Shape{1, 1} : in))) {
            throw Error("two operands have different sizes");
        }
    }

    const Program& program_;
    Shape largest_;  // of the inputs, side by side
    std::vector<Shape> shapes_;
};

}  // namespace

std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& sizes) {
    for (Shape size : sizes) {
        if (size.height < 1 || size.width < 1) throw Error("the image is empty: give one with pixels");
        if (size.height > kLargestSide || size.width > kLargestSide) throw Error("the image is too large");
    }
    return Inference(program, sizes).take();
}

}  // namespace nmk
