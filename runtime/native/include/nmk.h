/* libnmk: nmcompile's native kernels behind a plain C ABI.
 *
 * Every function may be called from any thread. No function here throws, allocates what the
 * caller must free, or needs Python. A program links libnmk.so, or loads it at run time and
 * compares nmk_abi_version() with the NMK_ABI_VERSION it was compiled with.
 */
#ifndef NMK_H
#define NMK_H

#include <stdint.h>

#ifdef NMK_BUILDING
#define NMK_API __attribute__((visibility("default")))
#else
#define NMK_API
#endif

/* Raised whenever a function here changes its meaning, its arguments, or goes away. */
#define NMK_ABI_VERSION 1

/* Bits of nmk_cpu_features(). A bit keeps its place for good. */
#define NMK_AVX2 (UINT64_C(1) << 0)
#define NMK_FMA (UINT64_C(1) << 1)
#define NMK_AVX512F (UINT64_C(1) << 2)
#define NMK_AVX512BW (UINT64_C(1) << 3)
#define NMK_AVX512VL (UINT64_C(1) << 4)
#define NMK_AVX512_BF16 (UINT64_C(1) << 5)
#define NMK_AVX512_FP16 (UINT64_C(1) << 6)
#define NMK_AMX_TILE (UINT64_C(1) << 7)
#define NMK_AMX_BF16 (UINT64_C(1) << 8)
#define NMK_AMX_INT8 (UINT64_C(1) << 9)

#ifdef __cplusplus
extern "C" {
#endif

/* The NMK_ABI_VERSION that this library was built with. */
NMK_API int nmk_abi_version(void);

/* nmcompile's version, such as "0.1.0". The text lives as long as the library. */
NMK_API const char* nmk_version(void);

/* Which of the instruction sets above this processor has AND the operating system has enabled.
 *
 * 0 on a processor that is not x86. Linux enables AMX for the machine but grants it to a process
 * only on request (arch_prctl ARCH_REQ_XCOMP_PERM); these bits do not speak of that grant.
 */
NMK_API uint64_t nmk_cpu_features(void);

/* The processor's own name, such as "AMD EPYC 9R14", or "unknown". Lives as long as the library. */
NMK_API const char* nmk_cpu_name(void);

#ifdef __cplusplus
}
#endif

#endif /* NMK_H */
