// family.h -> the kernels named avx2, compiled with that ISA's own flags.
#define NMK_LANES 8
#define NMK_GROUP 4
#define NMK_POSITIONS 3
#define NMK_WINOGRAD_GROUP 4
#define NMK_SPACE avx2
#define NMK_TABLE kAvx2Kernels
#define NMK_NAME "avx2"

#include "family.h"
#include "winograd.h"
#include "table.h"
