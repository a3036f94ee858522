// What a source file of one ISA has included -> its table of kernels, NMK_TABLE, named NMK_NAME.
//
// Included last, after NMK_PAIRS (a PairLayout; none: no kernels of pairs) and NMK_HALVES (where there are some).

namespace nmk {

const Kernels NMK_TABLE = {
    NMK_NAME,
    NMK_LANES,
    NMK_GROUP,
    NMK_WINOGRAD_GROUP,
    NMK_SPACE::pack,
    NMK_SPACE::conv_nm,
    NMK_SPACE::conv_dense,
    NMK_SPACE::conv_winograd,
#ifdef NMK_PAIRS
    PairLayout::NMK_PAIRS,
    NMK_SPACE::pack_pairs,
    NMK_SPACE::regroup,
    NMK_SPACE::conv_pairs,
#else
    PairLayout::none,
    nullptr,
    nullptr,
    nullptr,
#endif
#ifdef NMK_HALVES
    NMK_SPACE::pack_halves,
    NMK_SPACE::conv_halves,
#else
    nullptr,
    nullptr,
#endif
    NMK_SPACE::pointwise,
    NMK_SPACE::moments,
};

}  // namespace nmk
