/* libnmk: nmcompile's native kernels behind a plain C ABI.
 *
 * Every function may be called from any thread. No function here throws or needs Python, and only
 * nmk_program_load gives something that the caller must free. A program links libnmk.so, or loads it at run time and
 * compares nmk_abi_version() with the NMK_ABI_VERSION it was compiled with.
 */
#ifndef NMK_H
#define NMK_H

#include <stddef.h>
#include <stdint.h>

#ifdef NMK_BUILDING
#define NMK_API __attribute__((visibility("default")))
#else
#define NMK_API
#endif

/* Raised whenever a function here changes its meaning, its arguments, or goes away. */
#define NMK_ABI_VERSION 7

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

/* The family of kernels that programs are loaded for: "amx", "avx512_fp16", "avx512_bf16",
 * "avx512", "avx2" or "portable", in the order of preference.
 *
 * The best that this processor can run, at most the one that the environment variable NMK_ISA names
 * and the one that the program allows (`most`: Isa in cpu/format.h, 0 for any); "" if NMK_ISA is none
 * of them or the processor lacks it. NMK_ISA=tiles is the kernels of amx in plain C++, for tests.
 */
NMK_API const char* nmk_isa(uint32_t most);

/* A network, packed: operations and weights, ready to run. Several threads may run one at once. */
typedef struct nmk_program nmk_program;

/* Reads a packed program (runtime/native/cpu/format.h); `bytes` may be freed afterwards.
 *
 * Every byte is checked: a damaged or hostile program is refused, or runs within its own memory.
 * Gives NULL, and up to text_size - 1 characters that say why, if it cannot be run here.
 */
NMK_API nmk_program* nmk_program_load(const void* bytes, size_t size, char* text, size_t text_size);

/* Frees a program that no thread is running; NULL is allowed. */
NMK_API void nmk_program_free(nmk_program* program);

/* The family of kernels that it was loaded for, as nmk_isa names them, or the lesser one that the
 * program itself is limited to. The text lives as long as the library.
 */
NMK_API const char* nmk_program_isa(const nmk_program* program);

/* How many images it takes and gives, and of how many operations it consists. Always 0. */
NMK_API int nmk_program_counts(const nmk_program* program, uint32_t* inputs, uint32_t* outputs,
                               uint32_t* operations);

/* How many levels it has, 1 or more: the last keeps all its weights, a lower one some of the next one's. */
NMK_API uint32_t nmk_program_levels(const nmk_program* program);

/* How many columns of an image fill what its kernels compute at a time: a width takes about as long as
 * the next multiple of it. Where its rows would take less, a program of one input runs the image
 * transposed, so that then it is the height that does; the first such run prepares the weights again.
 */
NMK_API uint32_t nmk_program_full_width(const nmk_program* program);

/* The channels of an input; not 0 if there is no such input. */
NMK_API int nmk_program_input(const nmk_program* program, uint32_t index, uint32_t* channels);

/* An output's channels, height and width; not 0, and why, if inputs of these sizes are impossible.
 *
 * `sizes` has the height, then the width, of each input in turn, here and below.
 */
NMK_API int nmk_program_output(const nmk_program* program, uint32_t index, const int64_t* sizes,
                               int64_t* shape, char* text, size_t text_size);

/* Runs it: inputs and outputs are pointers to contiguous [batch][channels][height][width] images,
 * each of its own height and width, all of one batch.
 *
 * Uses that many threads, the caller's among them, and the weights of one level, counted from 0.
 * Memory and threads are kept for the next run; a run of the same sizes and thread count as the last
 * takes no further memory, whatever the level. Not 0, and why, if a size is impossible, there is no
 * such level or memory runs out.
 */
NMK_API int nmk_program_run(nmk_program* program, const float* const* inputs, int64_t batch,
                            const int64_t* sizes, float* const* outputs, int threads, int level, char* text,
                            size_t text_size);

/* The same, and adds the seconds that each operation took to seconds[0..operations): over all bands
 * of rows, the mean of the threads. */
NMK_API int nmk_program_profile(nmk_program* program, const float* const* inputs, int64_t batch,
                                const int64_t* sizes, float* const* outputs, int threads,
                                int level, double* seconds, char* text, size_t text_size);

#ifdef __cplusplus
}
#endif

#endif /* NMK_H */
