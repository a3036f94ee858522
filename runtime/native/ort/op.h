// A provider's kernel -> the table of functions by which ONNX Runtime knows the operator NMConv.
#ifndef NMK_ORT_OP_H
#define NMK_ORT_OP_H

#include <atomic>

#include "api.h"

namespace nmk_ort {

inline constexpr char kDomain[] = "nmcompile";
inline constexpr char kOperator[] = "NMConv";

// Sets type and sizes of the output; free sizes stay free, by name where they do not change.
OrtStatus* infer_shape(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept;

// One registration of the operator, for the sessions made with those options; it outlives them.
struct Op : OrtCustomOp {
    Op();  // what all providers have in common; types are checked by the kernels, whose errors name the layer

    std::atomic<int> threads{0};  // of the sessions; 0 until that is known
};

// Kernel is made from (op, info) and has compute(context); provider is null for the CPU's.
template <class Kernel>
std::unique_ptr<Op> make_op() {
    auto made = std::make_unique<Op>();
    OrtCustomOp& op = *made;
    op.GetExecutionProviderType = [](const OrtCustomOp*) { return Kernel::provider(); };
    op.GetInputMemoryType = [](const OrtCustomOp*, size_t index) { return Kernel::memory(index); };
    op.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
        // ONNX Runtime gives back what it was given, const or not.
        Op& own = const_cast<Op&>(static_cast<const Op&>(*self));
        return guarded([&] { *kernel = new Kernel(own, info); });
    };
    op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
        return guarded([&] { static_cast<Kernel*>(kernel)->compute(context); });
    };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    return made;
}

// The operator for the CPU provider.
std::unique_ptr<Op> cpu_op();

// The operator for the CUDA provider; null where this library was built without.
std::unique_ptr<Op> cuda_op();

}  // namespace nmk_ort

#endif  // NMK_ORT_OP_H
