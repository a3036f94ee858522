// A convolution's shape and weights -> the fastest kernel for them.
#ifndef NMK_METHOD_H
#define NMK_METHOD_H

#include <vector>

#include "conv.h"

namespace nmk {

// The kernel for what the record allows; of `conv` only the shape need be set.
Method best_method(const Conv& conv, Family family, Precision precision,
                   const std::vector<float>& weights, const Kernels& kernels);

}  // namespace nmk

#endif  // NMK_METHOD_H
