/* libnmk_trt<major>: the operator nmcompile::NMConv as a plugin of one major version of TensorRT.
 *
 * TensorRT itself calls getCreators and setLoggerFinder; what is here tells whether it may be given the library.
 */
#ifndef NMK_TRT_H
#define NMK_TRT_H

#define NMK_TRT_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* The major version of TensorRT whose headers it was built with: with another one it must not be loaded. */
NMK_TRT_API int nmk_trt_tensorrt_major(void);

/* nmcompile's version. */
NMK_TRT_API const char* nmk_trt_version(void);

#ifdef __cplusplus
}
#endif

#endif /* NMK_TRT_H */
