// Descriptions of tensors -> the output's, or what is wrong with them.
#ifndef NMK_TRT_SHAPES_H
#define NMK_TRT_SHAPES_H

#include <NvInferRuntime.h>

#include "layer.h"

namespace nmk_trt {

// All of these throw a Problem.
void check_counts(const Layer& layer, int inputs, int outputs);

// Sizes that the network leaves open are -1. `output` is what its shape must be, null where nobody knows.
void check_input(const Layer& layer, int input, const nvinfer1::Dims& dims, const nvinfer1::Dims* output);

nvinfer1::DimsExprs output_shape(const Layer& layer, const nvinfer1::DimsExprs& image, nvinfer1::IExprBuilder& builder);

std::string text_of(const nvinfer1::Dims& dims);

}  // namespace nmk_trt

#endif  // NMK_TRT_SHAPES_H
