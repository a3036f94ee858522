/* As much of NVIDIA's driver as nmcompile uses -> a GPU whose memory is this process's own.
 *
 * FAKE_GPU names it, FAKE_GPUS is how many there are (1), FAKE_FAILS names a function that fails.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 0x51, STREAM = 0x52, OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };

static _Thread_local uintptr_t current;

static int failing(const char* function) {
    const char* const named = getenv("FAKE_FAILS");
    return named && strcmp(named, function) == 0 ? OUT_OF_MEMORY : 0;
}

static int needs_context(const char* function) {
    return current == CONTEXT ? failing(function) : NO_CONTEXT;
}

int cuInit(unsigned flags) { return flags ? 1 : failing("cuInit"); }

int cuGetErrorString(int error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : "invalid device context";
    return 0;
}

int cuDeviceGetCount(int* count) {
    const char* const text = getenv("FAKE_GPUS");
    *count = text ? atoi(text) : 1;
    return 0;
}

int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return failing("cuDeviceGet");
}

int cuDeviceGetName(char* name, int length, int device) {
    const char* const named = getenv("FAKE_GPU");
    snprintf(name, (size_t)length, "%s", named ? named : "Fake GPU");
    return device;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
    return device;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = (void*)(uintptr_t)CONTEXT;
    return device;
}

int cuCtxSetCurrent(void* context) {
    current = (uintptr_t)context;
    return 0;
}

int cuStreamCreate(void** stream, unsigned flags) {
    *stream = (void*)(uintptr_t)STREAM;
    return flags ? 1 : needs_context("cuStreamCreate");
}

int cuStreamSynchronize(void* stream) { return (uintptr_t)stream == STREAM ? needs_context("cuStreamSynchronize") : 1; }

int cuMemAlloc_v2(uint64_t* address, size_t size) {
    const int status = needs_context("cuMemAlloc_v2");
    if (!status) *address = (uint64_t)(uintptr_t)malloc(size);
    return status;
}

int cuMemFree_v2(uint64_t address) {
    free((void*)(uintptr_t)address);
    return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, void* stream) {
    memcpy((void*)(uintptr_t)to, from, size);
    return (uintptr_t)stream == STREAM ? needs_context("cuMemcpyHtoDAsync_v2") : 1;
}

int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void* stream) {
    memcpy(to, (const void*)(uintptr_t)from, size);
    return (uintptr_t)stream == STREAM ? needs_context("cuMemcpyDtoHAsync_v2") : 1;
}
