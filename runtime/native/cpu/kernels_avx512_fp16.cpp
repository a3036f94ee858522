// family.h, dots.h and halves.h -> the kernels named avx512_fp16: those of avx512_bf16, and fp16 where it is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE avx512_fp16
#define NMK_TABLE kAvx512Fp16Kernels
#define NMK_NAME "avx512_fp16"
#define NMK_PAIRS groups
#define NMK_BF16
#define NMK_FP16
#define NMK_HALVES

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "dots.h"
#include "halves.h"
#include "table.h"
