// NMConv of format cuda -> libnmk_cuda's kernels, queued on the stream of ONNX Runtime's CUDA provider.
#include <mutex>

#include "nmk_cuda.h"
#include "node.h"
#include "op.h"
#include "packed.h"

namespace nmk_ort {
namespace {

constexpr size_t kText = 512;
constexpr int64_t kProbe = 96;  // any size that no kernel exceeds

class CudaKernel {
public:
    CudaKernel(Op&, const OrtKernelInfo* info) : node_(info) {
        if (node_.format != "cuda") {
            node_.fail("found weights of format " + node_.format +
                       ", the CUDA provider runs format cuda; run it with CPUExecutionProvider alone");
        }
        if (!node_.channels_last) node_.fail("found layout NCHW, the CUDA provider runs NHWC; write the model again");
        std::string problem;
        if (!nmk_cuda::read_layer(node_.packed.data(), node_.packed.size(), layer_, problem)) node_.fail(problem);
        check_attributes();
    }

#ifdef NMK_EMULATED
    static const char* provider() { return nullptr; }
#else
    static const char* provider() { return "CUDAExecutionProvider"; }
#endif
    // All on the device, the level too: nothing waits for it.
    static OrtMemType memory(size_t) { return OrtMemTypeDefault; }

    void compute(OrtKernelContext* context) {
        const Call call(node_, context,
                        layer_.brain ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                        layer_.channels);
        OrtValue* made = nullptr;
        check(g_api->KernelContext_GetOutput(context, 0, call.output.data(), call.output.size(), &made));
        void *output = nullptr, *stream = nullptr;
        check(g_api->GetTensorMutableData(made, &output));
        if (provider() != nullptr) check(g_api->KernelContext_GetGPUComputeStream(context, &stream));
        const auto* chosen = call.level ? static_cast<const int*>(data_of(call.level)) : nullptr;
        const int level = chosen ? -1 : static_cast<int>(layer_.levels.size()) - 1;
        const void* residual = call.residual ? data_of(call.residual) : nullptr;
        char text[kText];
        if (call.batch > 0 && nmk_cuda_conv_run(on_device(), data_of(call.x), residual, output, call.batch,
                                                call.height, call.width, level, chosen, stream, text, sizeof text)) {
            throw Error(text);  // which names the layer
        }
    }

private:
    // The attributes must say what the weights are for.
    void check_attributes() const {
        const nmk_cuda::Layer& l = layer_;
        const auto of = [&](int64_t size, int kernel, int pads) {
            return ((size + pads - kernel) / l.stride + 1) * l.shuffle;
        };
        const bool fits = (l.residual != nmk_cuda::Residual::kNone) == node_.adds &&
                          node_.sizes.channels * l.shuffle * l.shuffle == l.rows &&
                          node_.sizes.of(0, kProbe) == of(kProbe, l.kernel_height, l.pad_top + l.pad_bottom) &&
                          node_.sizes.of(1, kProbe + 1) == of(kProbe + 1, l.kernel_width, l.pad_left + l.pad_right);
        if (!fits) node_.fail("found weights that do not fit the node's attributes; write the model again");
    }

    // The weights on the device that is current in the first call: sessions are made before they have one.
    const nmk_cuda_conv* on_device() {
        const std::lock_guard<std::mutex> lock(guard_);
        if (!conv_) {
            char text[kText];
            conv_.reset(nmk_cuda_conv_load(node_.packed.data(), node_.packed.size(), node_.name.c_str(), text,
                                           sizeof text));
            if (!conv_) throw Error(text);
            node_.packed = {};
        }
        return conv_.get();
    }

    struct Free {
        void operator()(nmk_cuda_conv* conv) const { nmk_cuda_conv_free(conv); }
    };

    Node node_;
    nmk_cuda::Layer layer_;
    std::mutex guard_;
    std::unique_ptr<nmk_cuda_conv, Free> conv_;
};

}  // namespace

std::unique_ptr<Op> cuda_op() { return make_op<CudaKernel>(); }

}  // namespace nmk_ort
