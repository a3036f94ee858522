// The operator as ONNX Runtime asks for it: names, numbers of inputs, and the output's shape.
#include "op.h"

#include "node.h"

namespace nmk_ort {
namespace {

constexpr size_t kMostInputs = 3;
constexpr size_t kMostBytes = 4096;

// An attribute's bytes, as numbers or letters.
template <class Value>
std::vector<Value> read(const OrtShapeInferContext* context, const char* name, OrtOpAttrType type) {
    const OrtOpAttr* attribute = nullptr;
    check(g_api->ShapeInferContext_GetAttribute(context, name, &attribute));
    std::vector<Value> values(kMostBytes / sizeof(Value));
    size_t bytes = 0;
    check(g_api->ReadOpAttr(attribute, type, values.data(), kMostBytes, &bytes));
    values.resize(bytes / sizeof(Value));
    return values;
}

std::string read_text(const OrtShapeInferContext* context, const char* name) {
    std::vector<char> letters = read<char>(context, name, ORT_OP_ATTR_STRING);
    letters.push_back('\0');
    return letters.data();
}

// A free size of the output in terms of the input's: equal ones are written alike.
std::string formula(const std::string& size, int64_t lost, int64_t stride, int64_t shuffle) {
    if (lost == 1 && stride == 1 && shuffle == 1) return size;
    return "((" + size + " - " + std::to_string(lost) + ") / " + std::to_string(stride) + " + 1) * " +
           std::to_string(shuffle);
}

void set_output(OrtShapeInferContext* context, const Info& output) {
    OrtTensorTypeAndShapeInfo* made = nullptr;
    check(g_api->CreateTensorTypeAndShapeInfo(&made));
    const auto release = [](OrtTensorTypeAndShapeInfo* held) { g_api->ReleaseTensorTypeAndShapeInfo(held); };
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> held(made, release);
    std::vector<const char*> symbols;
    for (const std::string& symbol : output.symbols) symbols.push_back(symbol.c_str());
    check(g_api->SetTensorElementType(made, output.type));
    check(g_api->SetDimensions(made, output.dims.data(), output.dims.size()));
    check(g_api->SetSymbolicDimensions(made, symbols.data(), symbols.size()));
    check(g_api->ShapeInferContext_SetOutputTypeShape(context, 0, made));
}

}  // namespace

OrtStatus* infer_shape(const OrtCustomOp*, OrtShapeInferContext* context) noexcept {
    return guarded([&] {
        OrtTensorTypeAndShapeInfo* given = nullptr;  // it stays the context's
        check(g_api->ShapeInferContext_GetInputTypeShape(context, 0, &given));
        const Info image = read_info(given);
        if (image.dims.size() != 4) return;
        const Sizes sizes = read_sizes(read<int64_t>(context, "sizes", ORT_OP_ATTR_INTS));
        const bool last = read_text(context, "layout") == "NHWC";
        Info output = image;
        // A free size without a name would count as a size of -1.
        for (size_t axis = 0; axis < 4; ++axis) {
            if (image.dims[axis] < 0 && image.symbols[axis].empty()) {
                output.symbols[axis] = read_text(context, "name") + "/" + std::to_string(axis);
            }
        }
        output.dims[last ? 3 : 1] = sizes.channels;
        output.symbols[last ? 3 : 1].clear();
        for (int axis = 0; axis < 2; ++axis) {
            const size_t at = static_cast<size_t>(axis) + (last ? 1 : 2);
            const auto which = static_cast<size_t>(axis);
            if (image.dims[at] >= 0) {
                output.dims[at] = sizes.of(axis, image.dims[at]);
            } else {
                output.symbols[at] = formula(output.symbols[at], sizes.lost[which], sizes.stride[which], sizes.shuffle);
            }
        }
        set_output(context, output);
    });
}

Op::Op() : OrtCustomOp{} {
    OrtCustomOp& op = *this;
    op.version = kApiVersion;
    op.GetName = [](const OrtCustomOp*) { return kOperator; };
    op.GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED; };
    op.GetOutputType = op.GetInputType;
    op.GetInputTypeCount = [](const OrtCustomOp*) { return kMostInputs; };
    op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
    op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
        return index == 0 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    };
    op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
    op.GetVariadicInputHomogeneity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputMinArity = op.GetVariadicInputMinArity;
    op.GetVariadicOutputHomogeneity = op.GetVariadicInputMinArity;
    op.InferOutputShapeFn = infer_shape;
    op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
    op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

}  // namespace nmk_ort
