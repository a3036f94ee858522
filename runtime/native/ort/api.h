// ONNX Runtime's C API -> calls that throw what went wrong, and handles that are freed.
#ifndef NMK_ORT_RUNTIME_API_H
#define NMK_ORT_RUNTIME_API_H

#include <onnxruntime_c_api.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace nmk_ort {

// The oldest version of the API that has all that is used here; its structures only grow.
constexpr uint32_t kApiVersion = 21;

// Given by RegisterCustomOps before anything else runs.
inline const OrtApi* g_api = nullptr;

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws what a call says, if it says anything.
inline void check(OrtStatus* status) {
    if (status == nullptr) return;
    const std::string text = g_api->GetErrorMessage(status);
    g_api->ReleaseStatus(status);
    throw Error(text);
}

// Runs the body; no exception leaves a callback of ONNX Runtime.
template <class Body>
OrtStatus* guarded(const Body& body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const std::bad_alloc&) {
        return g_api->CreateStatus(ORT_FAIL, "NMConv: not enough memory");
    } catch (const std::exception& error) {
        return g_api->CreateStatus(ORT_INVALID_ARGUMENT, error.what());
    }
}

struct Info {
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<int64_t> dims;  // -1 where a size is free
    std::vector<std::string> symbols;
};

Info read_info(const OrtTensorTypeAndShapeInfo* info);

// Type and sizes of a tensor.
Info info_of(const OrtValue* value);

}  // namespace nmk_ort

#endif  // NMK_ORT_RUNTIME_API_H
