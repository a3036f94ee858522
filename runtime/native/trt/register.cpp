// A plain dlopen -> NMConv in the registry of the TensorRT that this process has, as REGISTER_TENSORRT_PLUGIN does.
//
// It is a library of its own: IPluginRegistry::loadLibrary refuses plugins that loading has registered already. And
// it asks for no symbol of TensorRT, which applications often load so that nobody else sees its symbols.
#include <dlfcn.h>

#include <cstdio>

#include "creator.h"

namespace {

#define NMK_TEXT(x) #x
#define NMK_NAME(major) "libnvinfer.so." NMK_TEXT(major)

struct Registration {
    Registration() {
        void* const library = dlopen(NMK_NAME(NV_TENSORRT_MAJOR), RTLD_LAZY | RTLD_NOLOAD);
        const auto get = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(
            library ? dlsym(library, "getPluginRegistry") : nullptr);
        nvinfer1::IPluginRegistry* const registry = get ? get() : nullptr;
        if (!registry) {
            std::fprintf(stderr, "nmcompile: found no " NMK_NAME(NV_TENSORRT_MAJOR) " in this process; load it before the "
                                 "library with its plugin, or the library for the TensorRT that it has\n");
            return;
        }
        int32_t count = 0;
        nvinfer1::IPluginCreatorInterface* const* const creators = nmk_trt_creators(count);
        for (int32_t i = 0; i < count; ++i) {
            if (!registry->registerCreator(*creators[i], nmk_trt::kNamespace)) {
                std::fprintf(stderr, "nmcompile: found NMConv in TensorRT's registry already; load its library once\n");
            }
        }
    }
};

const Registration registration;

}  // namespace
