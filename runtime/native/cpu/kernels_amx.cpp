// family.h and tiles.h -> the kernels named amx: AVX-512, and tiles where bf16 is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE amx
#define NMK_BF16
#define NMK_AMX

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "tiles.h"

namespace nmk {

const Kernels kAmxKernels = {
    "amx",
    NMK_LANES,
    NMK_GROUP,
    NMK_WINOGRAD_GROUP,
    NMK_SPACE::pack,
    NMK_SPACE::conv_nm,
    NMK_SPACE::conv_dense,
    NMK_SPACE::conv_winograd,
    PairLayout::tiles,
    NMK_SPACE::pack_pairs,
    NMK_SPACE::regroup,
    NMK_SPACE::conv_pairs,
    NMK_SPACE::pointwise,
    NMK_SPACE::moments,
};

}  // namespace nmk
