// Packed bytes and attributes that agree -> a layer on each device that asks for it.
#include "layer.h"

#include <cuda_runtime.h>

#include <cstdio>

#include "log.h"

namespace nmk_trt {
namespace {

constexpr int kTextBytes = 512;

std::string description_of(const nmk_cuda::Layer& l, const std::string& layout) {
    static const char* const kinds[] = {"dense", "sparse", "gathered"};
    const auto number = [](auto value) { return std::to_string(static_cast<int>(value)); };
    std::string text = "nmcompile-" NMK_VERSION "_";
    text += l.brain ? "bf16_" : "f16_";
    text += number(l.kernel_height) + "x" + number(l.kernel_width) + "_" + number(l.channels) + "to" + number(l.rows);
    text += "_stride" + number(l.stride) + "_pads";
    for (const int pad : {l.pad_top, l.pad_left, l.pad_bottom, l.pad_right}) text += "." + number(pad);
    text += "_activation" + number(l.activation) + "_residual" + number(l.residual);
    text += "_shuffle" + number(l.shuffle) + "_" + layout;
    for (const nmk_cuda::Level& level : l.levels) {
        text += std::string("_") + kinds[static_cast<size_t>(level.kind)];
        if (level.gathers) text += number(level.gathers);
    }
    return text;
}

nmk_cuda::Layer read(const Fields& fields) {
    nmk_cuda::Layer layer;
    std::string problem;
    const auto* const bytes = reinterpret_cast<const unsigned char*>(fields.weights.data());
    if (!nmk_cuda::read_layer(bytes, static_cast<size_t>(fields.bytes), layer, problem)) {
        throw Problem(fields.name, problem);
    }
    return layer;
}

}  // namespace

Layer::Layer(Fields fields)
    : fields_(std::move(fields)),
      written_(written_fields(fields_)),
      serialised_{static_cast<int32_t>(written_.size()), written_.data()},
      packed_(read(fields_)),
      description_(description_of(packed_, fields_.layout)),
      metadata_("name=" + fields_.name + " pattern=" + fields_.pattern + " kernel=" + description_) {
    if (fields_.residual != static_cast<int>(packed_.residual)) {
        throw Problem(fields_.name, "found residual = " + std::to_string(fields_.residual) + " beside weights packed for " +
                                        std::to_string(static_cast<int>(packed_.residual)) +
                                        ", expected the same; write the model again");
    }
}

nvinfer1::DataType Layer::type() const {
    return packed_.brain ? nvinfer1::DataType::kBF16 : nvinfer1::DataType::kHALF;
}

nvinfer1::TensorFormat Layer::format() const {
    return channels_last() ? nvinfer1::TensorFormat::kLINEAR : nvinfer1::TensorFormat::kHWC8;
}

bool Layer::fits_format() noexcept {
    const int in = packed_.channels, out = channels_out();
    const bool fits = channels_last() || (in % nmk_cuda::kVector == 0 && out % nmk_cuda::kVector == 0);
    if (!fits) {
        std::call_once(told_, [&] {
            char text[kTextBytes];
            std::snprintf(text, sizeof text,
                          "found %d channels in and %d out, layout NCHW needs multiples of 8; write it in layout "
                          "NHWC, or leave it to TensorRT's own convolution",
                          in, out);
            log_error(name(), text);
        });
    }
    return fits;
}

const nmk_cuda_conv* Layer::on_device() {
    const std::lock_guard<std::mutex> lock(mutex_);
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess) {
        throw Problem(fields_.name, std::string("cudaGetDevice failed: ") + cudaGetErrorString(status) +
                                        "; run it where there is an NVIDIA GPU");
    }
    auto& conv = of_device_[device];
    if (!conv) {
        char text[kTextBytes] = "too little memory";
        conv.reset(nmk_cuda_conv_load(fields_.weights.data(), static_cast<size_t>(fields_.bytes), name(), text,
                                      sizeof text));
        if (!conv) throw Problem(text);
    }
    return conv.get();
}

}  // namespace nmk_trt
