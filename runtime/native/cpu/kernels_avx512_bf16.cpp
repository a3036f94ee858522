// family.h and dots.h -> the kernels named avx512_bf16: AVX-512, and vdpbf16ps where bf16 is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE avx512_bf16
#define NMK_BF16

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "dots.h"

namespace nmk {

const Kernels kAvx512Bf16Kernels = {
    "avx512_bf16",
    NMK_LANES,
    NMK_GROUP,
    NMK_WINOGRAD_GROUP,
    NMK_SPACE::pack,
    NMK_SPACE::conv_nm,
    NMK_SPACE::conv_dense,
    NMK_SPACE::conv_winograd,
    PairLayout::groups,
    NMK_SPACE::pack_pairs,
    NMK_SPACE::regroup,
    NMK_SPACE::conv_pairs,
    NMK_SPACE::pointwise,
    NMK_SPACE::moments,
};

}  // namespace nmk
