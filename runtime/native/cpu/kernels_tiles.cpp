// The kernels named amx in plain C++: what AMX would compute, on any processor; for tests.
#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE tiles
#define NMK_TABLE kTilesKernels
#define NMK_NAME "tiles"
#define NMK_PAIRS tiles
#define NMK_HALVES

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "tiles.h"
#include "halves.h"
#include "table.h"
