// What TensorRT looks for in a library of plugins -> the creator of NMConv, and where its log goes.
#include "creator.h"

#include "log.h"
#include "nmk_trt.h"

namespace nmk_trt {

nvinfer1::IPluginV3* NMConvCreator::createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                                 nvinfer1::TensorRTPhase) noexcept {
    return guarded<nvinfer1::IPluginV3*>(node ? node : "without a name", nullptr, [&] {
        return new NMConv(std::make_shared<Layer>(read_fields(node, fields)));
    });
}

}  // namespace nmk_trt

extern "C" {

NMK_TRT_API nvinfer1::IPluginCreatorInterface* const* nmk_trt_creators(int32_t& count) {
    static nmk_trt::NMConvCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}

NMK_TRT_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) { return nmk_trt_creators(count); }

NMK_TRT_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { nmk_trt::set_logger_finder(finder); }

int nmk_trt_tensorrt_major(void) { return NV_TENSORRT_MAJOR; }

const char* nmk_trt_version(void) { return NMK_VERSION; }
}
