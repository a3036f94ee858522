/* What nmcompile asks a plugin library about itself -> the answers that a test wants. */
int nmk_trt_tensorrt_major(void) { return MAJOR; }
const char* nmk_trt_version(void) { return VERSION; }
