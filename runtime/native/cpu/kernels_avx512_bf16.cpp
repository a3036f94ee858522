// family.h and dots.h -> the kernels named avx512_bf16: AVX-512, and vdpbf16ps where bf16 is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE avx512_bf16
#define NMK_TABLE kAvx512Bf16Kernels
#define NMK_NAME "avx512_bf16"
#define NMK_PAIRS groups
#define NMK_BF16

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "dots.h"
#include "table.h"
