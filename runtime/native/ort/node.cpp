// Attributes and inputs -> checked values, or an error that names the layer.
#include "node.h"

#include <cstring>

namespace nmk_ort {
namespace {

constexpr size_t kSizes = 6;

std::string text_of(const OrtKernelInfo* info, const char* name) {
    size_t size = 0;
    OrtStatus* status = g_api->KernelInfoGetAttribute_string(info, name, nullptr, &size);
    if (status != nullptr) g_api->ReleaseStatus(status);  // it tells the size, and some versions call that a failure
    std::string text(size, '\0');
    check(g_api->KernelInfoGetAttribute_string(info, name, text.data(), &size));
    text.resize(std::strlen(text.c_str()));
    return text;
}

int64_t number_of(const OrtKernelInfo* info, const char* name) {
    int64_t value = 0;
    check(g_api->KernelInfoGetAttribute_int64(info, name, &value));
    return value;
}

std::vector<int64_t> numbers_of(const OrtKernelInfo* info, const char* name) {
    size_t count = kSizes;
    std::vector<int64_t> values(count);
    check(g_api->KernelInfoGetAttributeArray_int64(info, name, values.data(), &count));
    values.resize(count);
    return values;
}

struct ReleaseValue {
    void operator()(OrtValue* value) const { g_api->ReleaseValue(value); }
};

// The packed bytes: `weights` is 1-D int32, and `bytes` says how many of its bytes are meant.
std::vector<unsigned char> bytes_of(const OrtKernelInfo* info, const Node& node) {
    OrtAllocator* allocator = nullptr;
    check(g_api->GetAllocatorWithDefaultOptions(&allocator));
    OrtValue* given = nullptr;
    check(g_api->KernelInfoGetAttribute_tensor(info, "weights", allocator, &given));
    const std::unique_ptr<OrtValue, ReleaseValue> held(given);
    const Info tensor = info_of(given);
    const int64_t bytes = number_of(info, "bytes");
    if (tensor.type != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 || tensor.dims.size() != 1 || bytes > 4 * tensor.dims[0] ||
        bytes <= 4 * (tensor.dims[0] - 1)) {
        node.fail("found weights that are not " + std::to_string(bytes) + " bytes as int32; write the model again");
    }
    const auto* first = static_cast<const unsigned char*>(data_of(given));
    return {first, first + bytes};
}

const char* type_name(ONNXTensorElementDataType type) {
    switch (type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return "bfloat16";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return "float64";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
        default: return "another type";
    }
}

std::string shape_text(const std::vector<int64_t>& dims) {
    std::string text;
    for (const int64_t size : dims) text += (text.empty() ? "" : "x") + std::to_string(size);
    return text.empty() ? "a scalar" : text;
}

void expect_type(const Node& node, const char* what, const Info& found, ONNXTensorElementDataType wanted) {
    if (found.type == wanted) return;
    node.fail(std::string("found ") + what + " of " + type_name(found.type) + ", expected " + type_name(wanted) +
              "; cast it, or write the model again");
}

}  // namespace

int64_t Sizes::of(int axis, int64_t size) const {
    const auto at = static_cast<size_t>(axis);
    return size < lost[at] ? 0 : ((size - lost[at]) / stride[at] + 1) * shuffle;
}

Sizes read_sizes(const std::vector<int64_t>& v) {
    if (v.size() != kSizes || v[0] < 1 || v[1] < 1 || v[2] < 1 || v[3] < 1) throw Error("NMConv: impossible `sizes`");
    return {v[0], v[1], {v[2], v[3]}, {v[4], v[5]}};
}

Node::Node(const OrtKernelInfo* info)
    : name(text_of(info, "name")), format(text_of(info, "format")), adds(number_of(info, "residual") != 0),
      routed(number_of(info, "routed") != 0), channels_last(text_of(info, "layout") == "NHWC"),
      sizes(read_sizes(numbers_of(info, "sizes"))), packed(bytes_of(info, *this)) {}

void Node::fail(const std::string& what) const { throw Error("layer " + name + ": " + what); }

const void* data_of(const OrtValue* value) {
    void* data = nullptr;
    // The C API has no such call for what is only read; nothing here writes to an input.
    check(g_api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return data;
}

Call::Call(const Node& node, OrtKernelContext* context, ONNXTensorElementDataType type, int64_t channels) {
    size_t count = 0;
    check(g_api->KernelContext_GetInputCount(context, &count));
    std::vector<const OrtValue*> given;
    for (size_t i = 0; i < count; ++i) {
        const OrtValue* value = nullptr;
        check(g_api->KernelContext_GetInput(context, i, &value));
        if (value != nullptr) given.push_back(value);
    }
    const size_t wanted = 1 + (node.adds ? 1u : 0u) + (node.routed ? 1u : 0u);
    if (given.size() != wanted) {
        node.fail("found " + std::to_string(given.size()) + " inputs, expected " + std::to_string(wanted) +
                  "; write the model again");
    }
    x = given[0];
    residual = node.adds ? given[1] : nullptr;
    level = node.routed ? given.back() : nullptr;

    const Info image = info_of(x);
    expect_type(node, "an image", image, type);
    if (image.dims.size() != 4) node.fail("found an image of " + shape_text(image.dims) + ", expected four axes");
    const size_t first = node.channels_last ? 1 : 2;
    if (image.dims[node.channels_last ? 3 : 1] != channels) {
        node.fail("found an image of " + shape_text(image.dims) + ", expected " + std::to_string(channels) +
                  " channels");
    }
    batch = image.dims[0], height = image.dims[first], width = image.dims[first + 1];
    const int64_t tall = node.sizes.of(0, height), wide = node.sizes.of(1, width);
    if (node.channels_last) {
        output = {batch, tall, wide, node.sizes.channels};
    } else {
        output = {batch, node.sizes.channels, tall, wide};
    }
    if (residual != nullptr) {
        const Info added = info_of(residual);
        expect_type(node, "a residual", added, type);
        if (added.dims != output) {
            node.fail("found a residual of " + shape_text(added.dims) + ", expected the output's " +
                      shape_text(output));
        }
    }
    if (level != nullptr) {
        const Info chosen = info_of(level);
        expect_type(node, "a level", chosen, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
        int64_t numbers = 1;
        for (const int64_t size : chosen.dims) numbers *= size;
        if (numbers != 1) node.fail("found a level of " + shape_text(chosen.dims) + ", expected one number");
    }
}

Info info_of(const OrtValue* value) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(g_api->GetTensorTypeAndShape(value, &info));
    const auto release = [](OrtTensorTypeAndShapeInfo* held) { g_api->ReleaseTensorTypeAndShapeInfo(held); };
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> held(info, release);
    return read_info(info);
}

Info read_info(const OrtTensorTypeAndShapeInfo* info) {
    Info found;
    check(g_api->GetTensorElementType(info, &found.type));
    size_t count = 0;
    check(g_api->GetDimensionsCount(info, &count));
    found.dims.resize(count);
    check(g_api->GetDimensions(info, found.dims.data(), count));
    std::vector<const char*> symbols(count, "");
    check(g_api->GetSymbolicDimensions(info, symbols.data(), count));
    for (const char* symbol : symbols) found.symbols.emplace_back(symbol == nullptr ? "" : symbol);
    return found;
}

}  // namespace nmk_ort
