// family.h -> the kernels named portable, compiled with that ISA's own flags.
#define NMK_LANES 4
#define NMK_GROUP 2
#define NMK_WINOGRAD_GROUP 4
#define NMK_SPACE portable

#include "family.h"
#include "winograd.h"

namespace nmk {

const Kernels kPortableKernels = {
    "portable",
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
