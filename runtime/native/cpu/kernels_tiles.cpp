// The kernels named amx in plain C++: what AMX would compute, on any processor; for tests.
#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE tiles

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "tiles.h"

namespace nmk {

const Kernels kTilesKernels = {
    "tiles",
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
