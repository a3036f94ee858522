// TensorRT's part towards a plugin, without libnvinfer -> plain C functions, one for each thing that it asks.
//
// It does what TensorRT's headers promise to plugins: the order of calls is the tests'.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "expressions.h"

#define EXPORTED __attribute__((visibility("default")))

using namespace nvinfer1;

namespace {

struct Field {
    const char* name;
    const void* data;
    int32_t type, length;
};

struct Tensor {
    int32_t type, format, rank;
    int64_t sizes[8];
};

class Logger final : public ILogger {
  public:
    void log(Severity severity, const char* line) noexcept override {
        const std::lock_guard<std::mutex> lock(mutex_);
        lines_ += std::to_string(static_cast<int>(severity)) + " " + line + "\n";
    }
    std::string take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return std::exchange(lines_, "");
    }

  private:
    std::mutex mutex_;
    std::string lines_;
};

class Finder final : public ILoggerFinder {
  public:
    ILogger* findLogger() override { return &logger; }
    Logger logger;
};

class Context final : public IPluginResourceContext {
  public:
    IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

Finder finder;
IPluginCreatorV3One* creator = nullptr;

template <class Capability>
Capability& part(void* plugin, PluginCapabilityType type) {
    return *static_cast<Capability*>(static_cast<IPluginV3*>(plugin)->getCapabilityInterface(type));
}
IPluginV3OneCore& core(void* plugin) { return part<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE); }
IPluginV3OneBuild& build(void* plugin) { return part<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }
IPluginV3OneRuntime& runtime(void* plugin) { return part<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME); }

Dims dims_of(const Tensor& tensor) {
    Dims dims{tensor.rank, {}};
    std::copy(tensor.sizes, tensor.sizes + 8, dims.d);
    return dims;
}

std::vector<PluginTensorDesc> descs_of(const Tensor* tensors, int count) {
    std::vector<PluginTensorDesc> descs;
    for (const Tensor* t = tensors; t != tensors + count; ++t) {
        descs.push_back({dims_of(*t), static_cast<DataType>(t->type), static_cast<TensorFormat>(t->format), -1.0f});
    }
    return descs;
}

std::vector<DynamicPluginTensorDesc> dynamic_descs_of(const Tensor* tensors, int count) {
    std::vector<DynamicPluginTensorDesc> descs;
    for (const PluginTensorDesc& desc : descs_of(tensors, count)) descs.push_back({desc, desc.dims, desc.dims, desc.dims});
    return descs;
}

// Texts that are handed out stay until this thread asks for the next.
const char* hand_out(std::string text) {
    thread_local std::string kept;
    kept = std::move(text);
    return kept.c_str();
}

}  // namespace

extern "C" {

// Loads a plugin's library as IPluginRegistry::loadLibrary does; what is wrong, or an empty text.
EXPORTED const char* harness_open(const char* path) {
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return hand_out(dlerror());
    const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    const auto get = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    if (!set_finder || !get) return "no getCreators or setLoggerFinder";
    set_finder(&finder);
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = get(count);
    const bool known = count == 1 && !std::strcmp(creators[0]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE");
    if (!known) return "no single creator of V3 plugins";
    creator = static_cast<IPluginCreatorV3One*>(creators[0]);
    return "";
}

// The lines since the last call, each after its severity.
EXPORTED const char* harness_log() { return hand_out(finder.logger.take()); }

// Name, version and namespace of the creator, then its fields and their types.
EXPORTED const char* harness_creator() {
    std::string text = std::string(creator->getPluginName()) + " " + creator->getPluginVersion() + " " +
                       creator->getPluginNamespace();
    const PluginFieldCollection& names = *creator->getFieldNames();
    for (int i = 0; i < names.nbFields; ++i) {
        text += std::string(" ") + names.fields[i].name + " " + std::to_string(static_cast<int>(names.fields[i].type));
    }
    return hand_out(text);
}

EXPORTED void* harness_create(const char* node, const Field* fields, int count, int phase) {
    std::vector<PluginField> given;
    for (const Field* f = fields; f != fields + count; ++f) {
        given.emplace_back(f->name, f->data, static_cast<PluginFieldType>(f->type), f->length);
    }
    const PluginFieldCollection collection{count, given.data()};
    return creator->createPlugin(node, &collection, static_cast<TensorRTPhase>(phase));
}

EXPORTED void harness_free(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

EXPORTED void* harness_clone(void* plugin) { return static_cast<IPluginV3*>(plugin)->clone(); }

EXPORTED void* harness_attach(void* plugin) {
    Context context;
    return runtime(plugin).attachToContext(&context);
}

// What an engine would keep; false after the last.
EXPORTED bool harness_serialised(void* plugin, int index, Field* field) {
    const PluginFieldCollection& fields = *runtime(plugin).getFieldsToSerialize();
    if (index >= fields.nbFields) return false;
    const PluginField& found = fields.fields[index];
    *field = {found.name, found.data, static_cast<int32_t>(found.type), found.length};
    return true;
}

// Name, version and namespace; which kernel is timed; what the inspector shows.
EXPORTED const char* harness_describe(void* plugin, int what) {
    IPluginV3OneBuild& found = build(plugin);
    if (what == 1) return found.getTimingCacheID();
    if (what == 2) return found.getMetadataString();
    return hand_out(std::string(core(plugin).getPluginName()) + " " + core(plugin).getPluginVersion() + " " +
                    core(plugin).getPluginNamespace());
}

EXPORTED int harness_output_type(void* plugin, const int* types, int count, int* type) {
    std::vector<DataType> given;
    for (const int* t = types; t != types + count; ++t) given.push_back(static_cast<DataType>(*t));
    DataType found = DataType::kINT8;
    const int failed = build(plugin).getOutputDataTypes(&found, build(plugin).getNbOutputs(), given.data(), count);
    *type = static_cast<int>(found);
    return failed;
}

// The output's sizes as they are written, divided by commas, and at the open sizes of the first input; `tensors`
// have -1 where a size is open. NULL where the plugin refuses them.
EXPORTED const char* harness_output_shape(void* plugin, const Tensor* tensors, int count, const int64_t* open,
                                          int64_t* sizes) {
    static const char* const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    harness::Builder builder;
    std::vector<DimsExprs> inputs;
    for (const Tensor* t = tensors; t != tensors + count; ++t) {
        inputs.push_back({t->rank, {}});
        for (int i = 0; i < t->rank; ++i) {
            inputs.back().d[i] = t->sizes[i] < 0 ? builder.open(i, names[i]) : builder.constant(t->sizes[i]);
        }
    }
    DimsExprs output{};
    if (build(plugin).getOutputShapes(inputs.data(), count, nullptr, 0, &output, build(plugin).getNbOutputs(), builder)) {
        return nullptr;
    }
    std::string text;
    for (int i = 0; i < output.nbDims; ++i) {
        const auto& size = static_cast<const harness::Expression&>(*output.d[i]);
        text += (i ? "," : "") + size.text();
        sizes[i] = size.at(open);
    }
    return hand_out(text);
}

EXPORTED bool harness_supports(void* plugin, int place, const Tensor* tensors, int inputs) {
    const std::vector<DynamicPluginTensorDesc> descs = dynamic_descs_of(tensors, inputs + 1);
    return build(plugin).supportsFormatCombination(place, descs.data(), inputs, 1);
}

// The last tensor is the output.
EXPORTED int harness_configure(void* plugin, const Tensor* tensors, int inputs) {
    const std::vector<DynamicPluginTensorDesc> descs = dynamic_descs_of(tensors, inputs + 1);
    return build(plugin).configurePlugin(descs.data(), inputs, descs.data() + inputs, 1);
}

EXPORTED int harness_shape_change(void* plugin, const Tensor* tensors, int inputs) {
    const std::vector<PluginTensorDesc> descs = descs_of(tensors, inputs + 1);
    return runtime(plugin).onShapeChange(descs.data(), inputs, descs.data() + inputs, 1);
}

// Addresses on the device, the output's the last.
EXPORTED int harness_enqueue(void* plugin, const Tensor* tensors, int inputs, void* const* addresses, void* stream) {
    const std::vector<PluginTensorDesc> descs = descs_of(tensors, inputs + 1);
    return runtime(plugin).enqueue(descs.data(), descs.data() + inputs, addresses, addresses + inputs, nullptr,
                                   static_cast<cudaStream_t>(stream));
}

// Bytes of workspace, and custom tactics: both none.
EXPORTED int harness_extras(void* plugin) {
    return static_cast<int>(build(plugin).getWorkspaceSize(nullptr, 0, nullptr, 0)) + build(plugin).getNbTactics();
}
}
