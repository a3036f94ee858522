// Fields of a node, or of an engine -> a plugin.
#ifndef NMK_TRT_CREATOR_H
#define NMK_TRT_CREATOR_H

#include <NvInferRuntime.h>

#include "plugin.h"

namespace nmk_trt {

class NMConvCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    nvinfer1::IPluginV3* createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
    const char* getPluginName() const noexcept override { return kOperator; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    const nvinfer1::PluginFieldCollection names_{static_cast<int32_t>(field_names().size()), field_names().data()};
};

}  // namespace nmk_trt

// What getCreators gives, under a name that no other library of plugins has.
extern "C" nvinfer1::IPluginCreatorInterface* const* nmk_trt_creators(int32_t& count);

#endif  // NMK_TRT_CREATOR_H
