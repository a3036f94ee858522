// NMConv of format cpu -> libnmk, in as many threads as the session has.
#include "nmk.h"
#include "node.h"
#include "op.h"
#include "threads.h"

namespace nmk_ort {
namespace {

constexpr size_t kText = 512;
constexpr int64_t kProbe = 96;  // any size that no kernel exceeds

class CpuKernel {
public:
    CpuKernel(Op& op, const OrtKernelInfo* info) : op_(op), node_(info) {
        if (node_.format != "cpu") {
            node_.fail("found weights of format " + node_.format +
                       ", the CPU provider runs format cpu; run it with CUDAExecutionProvider");
        }
        if (node_.channels_last) node_.fail("found layout NHWC, the CPU provider runs NCHW; write the model again");
        char text[kText];
        program_.reset(nmk_program_load(node_.packed.data(), node_.packed.size(), text, sizeof text));
        if (!program_) node_.fail(std::string(text) + "; write the model again");
        check_attributes();
        node_.packed = {};
    }

    static const char* provider() { return nullptr; }
    static OrtMemType memory(size_t) { return OrtMemTypeDefault; }

    void compute(OrtKernelContext* context) {
        const Call call(node_, context, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, channels_);
        OrtValue* made = nullptr;
        check(g_api->KernelContext_GetOutput(context, 0, call.output.data(), call.output.size(), &made));
        void* output = nullptr;
        check(g_api->GetTensorMutableData(made, &output));
        const float* inputs[] = {static_cast<const float*>(data_of(call.x)),
                                 call.residual ? static_cast<const float*>(data_of(call.residual)) : nullptr};
        const int64_t sizes[] = {call.height, call.width, call.output[2], call.output[3]};
        float* outputs[] = {static_cast<float*>(output)};
        const int levels = static_cast<int>(nmk_program_levels(program_.get()));
        const int level = call.level ? *static_cast<const int32_t*>(data_of(call.level)) : levels - 1;
        char text[kText];
        if (nmk_program_run(program_.get(), inputs, call.batch, sizes, outputs, threads_of(op_, context), level, text,
                            sizeof text)) {
            node_.fail(text);
        }
    }

private:
    // The attributes must say what the weights are for.
    void check_attributes() {
        uint32_t inputs = 0, outputs = 0, operations = 0;
        nmk_program_counts(program_.get(), &inputs, &outputs, &operations);
        int64_t shape[3] = {};
        const int64_t tall = node_.sizes.of(0, kProbe), wide = node_.sizes.of(1, kProbe + 1);
        const int64_t sizes[] = {kProbe, kProbe + 1, tall, wide};
        char text[kText];
        const bool known = inputs == (node_.adds ? 2u : 1u) && outputs == 1 &&
                           nmk_program_input(program_.get(), 0, &channels_) == 0 &&
                           nmk_program_output(program_.get(), 0, sizes, shape, text, sizeof text) == 0;
        if (!known || shape[0] != node_.sizes.channels || shape[1] != tall || shape[2] != wide) {
            node_.fail("found weights that do not fit the node's attributes; write the model again");
        }
    }

    struct Free {
        void operator()(nmk_program* program) const { nmk_program_free(program); }
    };

    Op& op_;
    Node node_;
    uint32_t channels_ = 0;
    std::unique_ptr<nmk_program, Free> program_;
};

}  // namespace

std::unique_ptr<Op> cpu_op() { return make_op<CpuKernel>(); }

}  // namespace nmk_ort
