// family.h and tiles.h -> the kernels named amx: AVX-512, and tiles where bf16 is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE amx
#define NMK_TABLE kAmxKernels
#define NMK_NAME "amx"
#define NMK_PAIRS tiles
#define NMK_BF16
#define NMK_AMX

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "tiles.h"
#include "table.h"
