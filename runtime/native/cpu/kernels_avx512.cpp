// family.h -> the kernels named avx512, compiled with that ISA's own flags.
#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE avx512
#define NMK_TABLE kAvx512Kernels
#define NMK_NAME "avx512"

#include "family.h"
#include "winograd.h"
#include "table.h"
