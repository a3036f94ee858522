/* libnmk_cuda: convolutions with N:M weights on NVIDIA GPUs, behind a plain C ABI.
 *
 * Images are [batch][height][width][channels] of halves or bfloat16, as the weights are; sums are fp32.
 * Weights come packed (runtime/native/cuda_pack.py). Functions that can fail give 0 or a handle when all is
 * well, and else up to text_size - 1 characters that say which layer, what was found and what is needed.
 * Handles belong to the device that was current when they were made, and may be used by any thread.
 */
#ifndef NMK_CUDA_H
#define NMK_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef NMK_BUILDING
#define NMK_CUDA_API __attribute__((visibility("default")))
#else
#define NMK_CUDA_API
#endif

/* Raised whenever a function here changes its meaning, its arguments, or goes away. */
#define NMK_CUDA_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* The NMK_CUDA_ABI_VERSION that this library was built with. */
NMK_CUDA_API int nmk_cuda_abi_version(void);

/* The name of every kernel in turn, as in "f16_sparse_64x16_s1": type, kind of weights, outputs x rows of 16
 * pixels, stride; NULL after the last. Those that begin with "block_" fuse two convolutions.
 */
NMK_CUDA_API const char* nmk_cuda_kernel_name(int index);

/* The shared memory that a block of that kernel takes, with 16 gathered channels a step; 0 after the last. */
NMK_CUDA_API size_t nmk_cuda_kernel_shared_bytes(int index);

/* One convolution, its weights on the device. */
typedef struct nmk_cuda_conv nmk_cuda_conv;

/* Two convolutions of 64 channels and a residual, run as one. */
typedef struct nmk_cuda_block nmk_cuda_block;

/* Copies packed weights to the current device and chooses a kernel for every level. Every byte is checked;
 * `bytes` may be freed afterwards. The environment variable NMK_CUDA_KERNEL limits the choice to kernels
 * whose names contain it. NULL, and why, if it cannot be run here.
 */
NMK_CUDA_API nmk_cuda_conv* nmk_cuda_conv_load(const void* bytes, size_t size, const char* name,
                                               char* text, size_t text_size);

/* Frees what no stream uses any more; NULL is allowed. */
NMK_CUDA_API void nmk_cuda_conv_free(nmk_cuda_conv* conv);

/* How many levels it has; the last keeps all its weights. */
NMK_CUDA_API int nmk_cuda_conv_levels(const nmk_cuda_conv* conv);

/* The kernel that runs a level; NULL if there is no such level. */
NMK_CUDA_API const char* nmk_cuda_conv_kernel(const nmk_cuda_conv* conv, int level);

/* The output's height, width and channels for an input's height and width. */
NMK_CUDA_API int nmk_cuda_conv_output(const nmk_cuda_conv* conv, int64_t height, int64_t width,
                                      int64_t* shape, char* text, size_t text_size);

/* Queues it on a stream (a cudaStream_t; NULL for the default one).
 *
 * `residual` has the output's shape; NULL where the layer adds none. `level` counts from 0; a negative one
 * means that `level_chosen`, on the device, will hold it when the stream comes to this point: then every
 * level's kernel is queued, and those of the others end at once. Nothing here waits for the device, so
 * that calls may be captured into a graph. Pointers are aligned to 16 bytes.
 */
NMK_CUDA_API int nmk_cuda_conv_run(const nmk_cuda_conv* conv, const void* input, const void* residual,
                                   void* output, int64_t batch, int64_t height, int64_t width, int level,
                                   const int* level_chosen, void* stream, char* text, size_t text_size);

/* Joins two convolutions (3x3, stride 1, padding 1, 64 channels, of one type, levels of one kind); the
 * second's residual, if it adds one, is the block's input. It uses their weights: free it before them.
 */
NMK_CUDA_API nmk_cuda_block* nmk_cuda_block_load(const nmk_cuda_conv* first, const nmk_cuda_conv* second,
                                                 char* text, size_t text_size);

NMK_CUDA_API void nmk_cuda_block_free(nmk_cuda_block* block);

NMK_CUDA_API const char* nmk_cuda_block_kernel(const nmk_cuda_block* block, int level);

/* Queues it as nmk_cuda_conv_run does; input and output have the same shape and must not overlap. */
NMK_CUDA_API int nmk_cuda_block_run(const nmk_cuda_block* block, const void* input, void* output,
                                    int64_t batch, int64_t height, int64_t width, int level,
                                    const int* level_chosen, void* stream, char* text, size_t text_size);

#ifdef __cplusplus
}
#endif

#endif /* NMK_CUDA_H */
