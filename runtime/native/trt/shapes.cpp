// Sizes of inputs -> TensorRT's expressions for the output's, and checks of both.
#include "shapes.h"

#include <algorithm>

#include "log.h"

namespace nmk_trt {
namespace {

using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::IDimensionExpr;

// Expressions that end where TensorRT gives none.
class Builder {
  public:
    Builder(const Layer& layer, nvinfer1::IExprBuilder& builder) : layer_(layer), builder_(builder) {}

    const IDimensionExpr* constant(int64_t value) const { return given(builder_.constant(value)); }

    // Without the operation where it would change nothing, so that equal sizes are seen to be equal.
    const IDimensionExpr* apply(DimensionOperation operation, const IDimensionExpr* size, int64_t value,
                                int64_t neutral) const {
        return value == neutral ? size : given(builder_.operation(operation, *size, *constant(value)));
    }

    // floor((size + pads - kernel) / stride) + 1, times the shuffle.
    const IDimensionExpr* output(const IDimensionExpr* size, int pads, int kernel) const {
        const nmk_cuda::Layer& packed = layer_.packed();
        size = apply(DimensionOperation::kSUM, size, pads - kernel + packed.stride, 0);
        size = apply(DimensionOperation::kFLOOR_DIV, size, packed.stride, 1);
        return apply(DimensionOperation::kPROD, size, packed.shuffle, 1);
    }

  private:
    const IDimensionExpr* given(const IDimensionExpr* made) const {
        if (!made) throw Problem(layer_.name(), "found no expression for its output's shape, TensorRT made none");
        return made;
    }

    const Layer& layer_;
    nvinfer1::IExprBuilder& builder_;
};

bool one_element(const Dims& dims) {
    return std::all_of(dims.d, dims.d + std::max(dims.nbDims, 0), [](int64_t size) { return size == 1; });
}

// Whether sizes may be equal: open ones may.
bool may_equal(const Dims& a, const Dims& b) {
    const auto alike = [](int64_t x, int64_t y) { return x < 0 || y < 0 || x == y; };
    return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d, alike);
}

void check_image(const Layer& layer, int dimensions, int64_t channels, const std::string& found) {
    const char* const axes = layer.channels_last() ? "N, H, W, C" : "N, C, H, W";
    if (dimensions != 4 || (channels >= 0 && channels != layer.packed().channels)) {
        throw Problem(layer.name(), "found an image of " + found + ", expected " + axes + " with " +
                                        std::to_string(layer.packed().channels) + " channels; change what gives it");
    }
}

}  // namespace

std::string text_of(const Dims& dims) {
    std::string text;
    for (int i = 0; i < dims.nbDims; ++i) text += (i ? " x " : "") + std::to_string(dims.d[i]);
    return text.empty() ? "no dimensions" : text;
}

void check_counts(const Layer& layer, int inputs, int outputs) {
    if (inputs != layer.inputs() || outputs != 1) {
        throw Problem(layer.name(), "found " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                                        " outputs, expected " + std::to_string(layer.inputs()) + " (image" +
                                        (layer.adds_residual() ? ", residual" : "") +
                                        (layer.routed() ? ", level" : "") + ") and 1; write the model again");
    }
}

void check_input(const Layer& layer, int input, const Dims& dims, const Dims* output) {
    if (input == 0) {
        check_image(layer, dims.nbDims, dims.nbDims == 4 ? dims.d[layer.axes().channels] : -1, text_of(dims));
    } else if (layer.is_level(input)) {
        if (!one_element(dims)) {
            throw Problem(layer.name(), "found a level of " + text_of(dims) + ", expected one number");
        }
    } else if (output && !may_equal(dims, *output)) {
        throw Problem(layer.name(), "found a residual of " + text_of(dims) + ", expected the output's shape, " +
                                        text_of(*output) + "; change what gives it");
    }
}

nvinfer1::DimsExprs output_shape(const Layer& layer, const nvinfer1::DimsExprs& image,
                                 nvinfer1::IExprBuilder& builder) {
    const Axes axes = layer.axes();
    const IDimensionExpr* const channels = image.nbDims == 4 ? image.d[axes.channels] : nullptr;
    const bool known = channels && channels->isConstant();
    const int64_t count = known ? channels->getConstantValue() : -1;
    check_image(layer, image.nbDims, count,
                std::to_string(image.nbDims) + " dimensions" +
                    (known ? " and " + std::to_string(count) + " channels" : ""));
    const nmk_cuda::Layer& packed = layer.packed();
    const Builder make(layer, builder);
    nvinfer1::DimsExprs shape{4, {image.d[0]}};
    shape.d[axes.channels] = make.constant(layer.channels_out());
    shape.d[axes.height] = make.output(image.d[axes.height], packed.pad_top + packed.pad_bottom, packed.kernel_height);
    shape.d[axes.width] = make.output(image.d[axes.width], packed.pad_left + packed.pad_right, packed.kernel_width);
    return shape;
}

}  // namespace nmk_trt
