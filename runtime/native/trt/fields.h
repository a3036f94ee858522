// Attributes of an NMConv node, as TensorRT's ONNX parser hands them on -> checked values, and back.
#ifndef NMK_TRT_FIELDS_H
#define NMK_TRT_FIELDS_H

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nmk_trt {

struct Fields {
    std::vector<int32_t> weights;  // the packed bytes, zeros up to a multiple of 4
    int32_t bytes = 0;             // how many they are
    std::string format;
    int32_t residual = 0, routed = 0;
    std::string layout, name, pattern;
};

// Their names and types, without data: the parser passes on no others.
const std::vector<nvinfer1::PluginField>& field_names();

// Throws a Problem if one is missing, unknown, there twice, of another type or length, or impossible.
// `node` names the layer until its own name is read.
Fields read_fields(const char* node, const nvinfer1::PluginFieldCollection* given);

// What read_fields reads; points into `fields`.
std::vector<nvinfer1::PluginField> written_fields(const Fields& fields);

}  // namespace nmk_trt

#endif  // NMK_TRT_FIELDS_H
