/* libnmk_ort: the operator nmcompile::NMConv for ONNX Runtime, in one library for its CPU and CUDA providers.
 *
 * Give its path to OrtApi::RegisterCustomOpsLibrary_V2, or in Python to SessionOptions.register_custom_ops_library.
 * It links neither ONNX Runtime nor CUDA's driver, so that it loads where there is no GPU.
 */
#ifndef NMK_ORT_H
#define NMK_ORT_H

#ifdef NMK_BUILDING
#define NMK_ORT_API __attribute__((visibility("default")))
#else
#define NMK_ORT_API
#endif

/* Raised whenever the operator's inputs or attributes, or what its packed weights mean, change. */
#define NMK_ORT_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* The NMK_ORT_ABI_VERSION that this library was built with. */
NMK_ORT_API int nmk_ort_abi_version(void);

/* Whether it has the operator for the CUDA provider, too: 1 or 0. */
NMK_ORT_API int nmk_ort_has_cuda(void);

#ifdef __cplusplus
}
#endif

#endif /* NMK_ORT_H */
