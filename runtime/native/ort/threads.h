// A session -> how many threads it may use within one operator.
#ifndef NMK_ORT_THREADS_H
#define NMK_ORT_THREADS_H

#include "op.h"

namespace nmk_ort {

// The session's configuration entry that says it; without one it is found out.
inline constexpr char kThreadsEntry[] = "nmcompile.threads";

// What that entry says, or 0.
int threads_of(const OrtSessionOptions* options);

// As many as ONNX Runtime runs at once; found out by the first call that does not know.
int threads_of(Op& op, OrtKernelContext* context);

}  // namespace nmk_ort

#endif  // NMK_ORT_THREADS_H
