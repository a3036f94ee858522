// TensorRT's calls -> checks of what it found, and libnmk_cuda's kernels on its stream.
#include "plugin.h"

#include <algorithm>

#include "log.h"
#include "shapes.h"

namespace nmk_trt {
namespace {

using namespace nvinfer1;

constexpr int kFailed = -1;
constexpr int kTextBytes = 512;

// Weakly typed networks, which 11 has no more, tell fp32 until formats are chosen.
bool may_be(DataType found, DataType expected) {
    return found == expected || (NV_TENSORRT_MAJOR < 11 && found == DataType::kFLOAT);
}

// What the kernels will write, as the output is described.
Dims written_shape(const Layer& layer, const nmk_cuda_conv* conv, const Dims& image) {
    const Axes axes = layer.axes();
    char text[kTextBytes];
    int64_t sizes[3];
    if (nmk_cuda_conv_output(conv, image.d[axes.height], image.d[axes.width], sizes, text, sizeof text)) {
        throw Problem(text);
    }
    Dims shape{4, {image.d[0]}};
    shape.d[axes.height] = sizes[0];
    shape.d[axes.width] = sizes[1];
    shape.d[axes.channels] = sizes[2];
    return shape;
}

bool same(const Dims& a, const Dims& b) { return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d); }

}  // namespace

IPluginCapability* NMConv::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* NMConv::clone() noexcept {
    return guarded<IPluginV3*>(layer_->name(), nullptr, [&] { return new NMConv(layer_); });
}

int32_t NMConv::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
    return guarded(layer_->name(), kFailed, [&] {
        check_counts(*layer_, input_count, output_count);
        for (int i = 0; i < input_count; ++i) {
            const DataType expected = layer_->is_level(i) ? DataType::kINT32 : layer_->type();
            if (!may_be(inputs[i], expected)) {
                throw Problem(layer_->name(), "found input " + std::to_string(i) + " of TensorRT's type " +
                                                  std::to_string(static_cast<int>(inputs[i])) + ", expected " +
                                                  std::to_string(static_cast<int>(expected)) +
                                                  " (1 is fp16, 3 int32, 7 bf16); cast it before this layer");
            }
        }
        outputs[0] = layer_->type();
        return 0;
    });
}

int32_t NMConv::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                                DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept {
    return guarded(layer_->name(), kFailed, [&] {
        check_counts(*layer_, input_count, output_count);
        outputs[0] = output_shape(*layer_, inputs[0], builder);
        return 0;
    });
}

bool NMConv::supportsFormatCombination(int32_t place, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                       int32_t output_count) noexcept {
    if (input_count != layer_->inputs() || output_count != 1 || !layer_->fits_format()) return false;
    const PluginTensorDesc& found = tensors[place].desc;
    if (place < input_count && layer_->is_level(place)) {
        return found.type == DataType::kINT32 && found.format == TensorFormat::kLINEAR;
    }
    return found.type == layer_->type() && found.format == layer_->format();
}

int32_t NMConv::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept {
    return guarded(layer_->name(), kFailed, [&] {
        check_counts(*layer_, input_count, output_count);
        for (int i = 0; i < input_count; ++i) check_input(*layer_, i, inputs[i].desc.dims, &outputs[0].desc.dims);
        return 0;
    });
}

int32_t NMConv::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
                              int32_t output_count) noexcept {
    return guarded(layer_->name(), kFailed, [&] {
        check_counts(*layer_, input_count, output_count);
        check_input(*layer_, 0, inputs[0].dims, nullptr);
        conv_ = layer_->on_device();
        const Dims shape = written_shape(*layer_, conv_, inputs[0].dims);
        for (int i = 1; i < input_count; ++i) check_input(*layer_, i, inputs[i].dims, &shape);
        if (!same(outputs[0].dims, shape)) {
            throw Problem(layer_->name(), "found an output of " + text_of(outputs[0].dims) + ", expected " +
                                              text_of(shape) + "; build the engine again");
        }
        return 0;
    });
}

int32_t NMConv::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void*, cudaStream_t stream) noexcept {
    return guarded(layer_->name(), kFailed, [&] {
        if (!conv_) conv_ = layer_->on_device();
        const Axes axes = layer_->axes();
        const Dims& image = input_descs[0].dims;
        const void* const residual = layer_->adds_residual() ? inputs[1] : nullptr;
        const int* const chosen = layer_->routed() ? static_cast<const int*>(inputs[layer_->inputs() - 1]) : nullptr;
        const int level = chosen ? -1 : nmk_cuda_conv_levels(conv_) - 1;
        char text[kTextBytes];
        if (nmk_cuda_conv_run(conv_, inputs[0], residual, outputs[0], image.d[0], image.d[axes.height],
                              image.d[axes.width], level, chosen, stream, text, sizeof text)) {
            throw Problem(text);
        }
        return 0;
    });
}

// Weights are copied here, so that neither the first image nor the capture of a graph meets a copy.
IPluginV3* NMConv::attachToContext(IPluginResourceContext*) noexcept {
    return guarded<IPluginV3*>(layer_->name(), nullptr, [&] {
        auto made = std::make_unique<NMConv>(layer_);
        made->conv_ = layer_->on_device();
        return made.release();
    });
}

}  // namespace nmk_trt
