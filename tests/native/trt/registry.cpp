// A stand-in for libnvinfer with its registry of plugins alone -> what was registered in it.
#include <NvInferRuntime.h>

#include <string>
#include <vector>

#define EXPORTED __attribute__((visibility("default")))

using namespace nvinfer1;

namespace {

class Registry final : public IPluginRegistry {
  public:
    void setErrorRecorder(IErrorRecorder*) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return false; }
    void setParentSearchEnabled(bool) override {}
    PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return false; }
    IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override { return nullptr; }
    int32_t releasePluginResource(const char*) noexcept override { return 0; }
    IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept override {
        return getAllCreators(count);
    }
    IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept override {
        *count = static_cast<int32_t>(creators_.size());
        return creators_.data();
    }
    IPluginCreatorInterface* getCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
    bool registerCreator(IPluginCreatorInterface& creator, const char* space) noexcept override {
        creators_.push_back(&creator);
        text_ += std::string(static_cast<IPluginCreatorV3One&>(creator).getPluginName()) + " in " + space + "\n";
        return true;
    }
#if NV_TENSORRT_MAJOR < 11  // V2 plugins, which are none of ours
    bool registerCreator(IPluginCreator&, const char*) noexcept override { return false; }
    bool deregisterCreator(const IPluginCreator&) noexcept override { return false; }
    IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
    IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
#endif
    const std::string& text() const { return text_; }

  private:
    std::vector<IPluginCreatorInterface*> creators_;
    std::string text_;
};

Registry registry;

}  // namespace

extern "C" {
EXPORTED IPluginRegistry* getPluginRegistry() noexcept { return &registry; }
EXPORTED const char* registry_text() { return registry.text().c_str(); }
}
