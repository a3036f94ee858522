// A library that was built without CUDA -> no operator for its provider.
#include "op.h"

namespace nmk_ort {

std::unique_ptr<Op> cuda_op() { return nullptr; }

}  // namespace nmk_ort
