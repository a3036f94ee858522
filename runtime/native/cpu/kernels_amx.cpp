// family.h, tiles.h and halves.h -> the kernels named amx: AVX-512, tiles where bf16 and halves where fp16 is allowed.
#include <immintrin.h>

#define NMK_LANES 16
#define NMK_GROUP 4
#define NMK_POSITIONS 6
#define NMK_WINOGRAD_GROUP 8
#define NMK_SPACE amx
#define NMK_TABLE kAmxKernels
#define NMK_NAME "amx"
#define NMK_PAIRS tiles
#define NMK_BF16
#define NMK_AMX
#ifdef NMK_AVX512_FP16_KERNELS
#define NMK_FP16
#define NMK_HALVES
#endif

#include "family.h"
#include "winograd.h"
#include "pairs.h"
#include "tiles.h"
#ifdef NMK_HALVES
#include "halves.h"
#endif
#include "table.h"
