// Checked attributes -> one layer, shared by all clones of its plugin; its weights are on a device once.
#ifndef NMK_TRT_LAYER_H
#define NMK_TRT_LAYER_H

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../cuda/packed.h"
#include "fields.h"
#include "nmk_cuda.h"

namespace nmk_trt {

// Where a tensor's sizes stand.
struct Axes {
    int channels, height, width;
};

class Layer {
  public:
    // Throws a Problem if the packed bytes are damaged or belie the attributes.
    explicit Layer(Fields fields);

    const char* name() const { return fields_.name.c_str(); }
    const nmk_cuda::Layer& packed() const { return packed_; }
    bool channels_last() const { return fields_.layout == "NHWC"; }
    Axes axes() const { return channels_last() ? Axes{3, 1, 2} : Axes{1, 2, 3}; }
    int channels_out() const { return packed_.rows / (packed_.shuffle * packed_.shuffle); }

    // Inputs in order: the image, the residual if there is one, the level if it is routed.
    int inputs() const { return 1 + adds_residual() + routed(); }
    bool adds_residual() const { return fields_.residual != 0; }
    bool routed() const { return fields_.routed != 0; }
    bool is_level(int input) const { return routed() && input == inputs() - 1; }

    nvinfer1::DataType type() const;
    nvinfer1::TensorFormat format() const;

    // Whether vectors of 8 channels hold its images; the first time that they do not, the log says so.
    bool fits_format() noexcept;

    // What its time depends on: layers of one description are timed once.
    const std::string& description() const { return description_; }

    // Its name, pattern and description, for TensorRT's inspector.
    const std::string& metadata() const { return metadata_; }

    const nvinfer1::PluginFieldCollection& serialised() const { return serialised_; }

    // The layer on the current device; its weights are copied there the first time. Throws a Problem.
    const nmk_cuda_conv* on_device();

  private:
    struct Free {
        void operator()(nmk_cuda_conv* conv) const { nmk_cuda_conv_free(conv); }
    };

    const Fields fields_;
    const std::vector<nvinfer1::PluginField> written_;
    const nvinfer1::PluginFieldCollection serialised_;
    nmk_cuda::Layer packed_;
    std::string description_, metadata_;
    std::once_flag told_;
    std::mutex mutex_;
    std::map<int, std::unique_ptr<nmk_cuda_conv, Free>> of_device_;
};

}  // namespace nmk_trt

#endif  // NMK_TRT_LAYER_H
