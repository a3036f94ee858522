// family.h -> the kernels named avx2, compiled with that ISA's own flags.
#define NMK_LANES 8
#define NMK_GROUP 2
#define NMK_WINOGRAD_GROUP 4
#define NMK_SPACE avx2

#include "family.h"
#include "winograd.h"

namespace nmk {

const Kernels kAvx2Kernels = {
    "avx2",
    NMK_LANES,
    NMK_GROUP,
    NMK_WINOGRAD_GROUP,
    NMK_SPACE::pack,
    NMK_SPACE::conv_nm,
    NMK_SPACE::conv_dense,
    NMK_SPACE::conv_winograd,
    PairLayout::none,
    nullptr,
    nullptr,
    nullptr,
    NMK_SPACE::pointwise,
    NMK_SPACE::moments,
};

}  // namespace nmk
