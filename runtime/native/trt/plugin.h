// A layer -> TensorRT's plugin: types, shapes and formats while building, kernels while running.
#ifndef NMK_TRT_PLUGIN_H
#define NMK_TRT_PLUGIN_H

#include <NvInferRuntime.h>

#include <memory>

#include "layer.h"

namespace nmk_trt {

constexpr const char* kOperator = "NMConv";
constexpr const char* kNamespace = "nmcompile";
constexpr const char* kVersion = "1";

// Clones share the layer. One tactic, one combination of formats and no workspace: what is not overridden is
// what TensorRT takes for that.
class NMConv final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit NMConv(std::shared_ptr<Layer> layer) : layer_(std::move(layer)) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return kOperator; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t getFormatCombinationLimit() noexcept override { return 1; }
    char const* getTimingCacheID() noexcept override { return layer_->description().c_str(); }
    char const* getMetadataString() noexcept override { return layer_->metadata().c_str(); }
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept override;

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::PluginTensorDesc* outputs, int32_t output_count) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &layer_->serialised(); }

  private:
    const std::shared_ptr<Layer> layer_;
    // On the device of the context that this belongs to; null while it belongs to none.
    const nmk_cuda_conv* conv_ = nullptr;
};

}  // namespace nmk_trt

#endif  // NMK_TRT_PLUGIN_H
