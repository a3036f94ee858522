// One function an instruction (PTX ISA 8.5 and later) -> what the kernels are written in.
//
// With NMK_EMULATED the same functions come from tests/native/cuda/emulation, so that a C++ compiler alone makes
// the kernels, and a processor runs them. Shared memory is addressed by 32-bit offsets everywhere.
#ifndef NMK_CUDA_PRIMITIVES_CUH
#define NMK_CUDA_PRIMITIVES_CUH

#include <cstdint>

namespace nmk_cuda {
struct Words {
    uint32_t w[4];
};
struct Half {};      // IEEE binary16
struct Brain {};     // bfloat16
}  // namespace nmk_cuda

#ifdef NMK_EMULATED
#include "emulated_primitives.h"
#else

#define NMK_DEVICE __device__ __forceinline__

namespace nmk_cuda {

NMK_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
NMK_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
NMK_DEVICE int grid_size() { return static_cast<int>(gridDim.x); }
NMK_DEVICE void sync_block() { __syncthreads(); }
NMK_DEVICE void sync_warp() { __syncwarp(); }

// Where the block's dynamic shared memory begins.
NMK_DEVICE uint32_t shared_base() {
    extern __shared__ __align__(128) unsigned char memory[];
    return static_cast<uint32_t>(__cvta_generic_to_shared(memory));
}

NMK_DEVICE Words load_shared_words(uint32_t at) {
    Words v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3]) : "r"(at));
    return v;
}

NMK_DEVICE uint32_t load_shared_word(uint32_t at) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

NMK_DEVICE uint32_t load_shared_half(uint32_t at) {
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
    return v;
}

NMK_DEVICE void store_shared_words(uint32_t at, const Words& v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.w[0]), "r"(v.w[1]),
                 "r"(v.w[2]), "r"(v.w[3]) : "memory");
}

NMK_DEVICE void store_shared_float(uint32_t at, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}

NMK_DEVICE Words load_global_words(const void* at) {
    const uint4 v = __ldg(static_cast<const uint4*>(at));
    return {{v.x, v.y, v.z, v.w}};
}

NMK_DEVICE uint16_t load_global_half(const uint16_t* at) { return __ldg(at); }
NMK_DEVICE float load_global_float(const float* at) { return __ldg(at); }
NMK_DEVICE int load_global_int(const int* at) { return __ldg(at); }

NMK_DEVICE void store_global_words(void* at, const Words& v) {
    *static_cast<uint4*>(at) = make_uint4(v.w[0], v.w[1], v.w[2], v.w[3]);
}

NMK_DEVICE void store_global_half(uint16_t* at, uint16_t v) { *at = v; }

// Copies 16 bytes from global to shared memory, or zeros where not `valid`; both sides aligned to 16.
NMK_DEVICE void copy_async(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0) : "memory");
}

NMK_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's groups of copies are under way.
template <int pending>
NMK_DEVICE void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8x8 matrices of halves; lane l names row l % 8 of matrix l / 8 and gets, of each matrix,
// elements 2 * (l % 4) and the next of row l / 4.
NMK_DEVICE void load_matrices(uint32_t (&m)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at));
}

#define NMK_MMA(type)                                                                                 \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                               \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"               \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                     \
                 : "r"(a.w[0]), "r"(a.w[1]), "r"(a.w[2]), "r"(a.w[3]), "r"(b0), "r"(b1))
#define NMK_MMA_SPARSE(type)                                                                          \
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." type "." type          \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, "    \
                 "%12, %13;"                                                                          \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                     \
                 : "r"(a.w[0]), "r"(a.w[1]), "r"(a.w[2]), "r"(a.w[3]), "r"(b[0]), "r"(b[1]),          \
                   "r"(b[2]), "r"(b[3]), "r"(metadata), "n"(selector))

// d[16][8] += a[16][16] b[16][8], as fragments.
NMK_DEVICE void multiply_add(Half, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1) {
    NMK_MMA("f16");
}
NMK_DEVICE void multiply_add(Brain, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1) {
    NMK_MMA("bf16");
}

// The same with a[16][32], of whose every 4 columns 2 are given; `selector` 0: lanes 0 and 1 of each four
// hold the metadata, 1: lanes 2 and 3.
template <int selector>
NMK_DEVICE void multiply_add_sparse(Half, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                                    uint32_t metadata) {
    NMK_MMA_SPARSE("f16");
}
template <int selector>
NMK_DEVICE void multiply_add_sparse(Brain, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                                    uint32_t metadata) {
    NMK_MMA_SPARSE("bf16");
}

#undef NMK_MMA
#undef NMK_MMA_SPARSE

// Two floats, rounded to nearest even: `low` in the low half of the word.
NMK_DEVICE uint32_t pair_of(Half, float low, float high) {
    uint32_t v;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}
NMK_DEVICE uint32_t pair_of(Brain, float low, float high) {
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

NMK_DEVICE float float_of(Half, uint32_t bits) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(static_cast<uint16_t>(bits)));
    return v;
}
NMK_DEVICE float float_of(Brain, uint32_t bits) { return __uint_as_float(bits << 16); }
NMK_DEVICE float float_bits(uint32_t bits) { return __uint_as_float(bits); }

// The larger; NaN if either is.
NMK_DEVICE float larger(float a, float b) {
    float v;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(a), "f"(b));
    return v;
}

}  // namespace nmk_cuda

#endif  // NMK_EMULATED
#endif  // NMK_CUDA_PRIMITIVES_CUH
