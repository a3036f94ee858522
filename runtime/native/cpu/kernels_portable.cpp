// family.h -> the kernels named portable, compiled with that ISA's own flags.
#define NMK_LANES 4
#define NMK_GROUP 2
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 4
#define NMK_SPACE portable
#define NMK_TABLE kPortableKernels
#define NMK_NAME "portable"

#include "family.h"
#include "winograd.h"
#include "table.h"
