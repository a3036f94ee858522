// The functions of cuda/primitives.cuh -> declared for a plain C++ compiler; instructions.cpp does them.
#ifndef NMK_EMULATED_PRIMITIVES_H
#define NMK_EMULATED_PRIMITIVES_H

#define NMK_DEVICE inline

namespace nmk_cuda {

int thread_index();
int block_index();
int grid_size();
void sync_block();
void sync_warp();
uint32_t shared_base();

Words load_shared_words(uint32_t at);
uint32_t load_shared_word(uint32_t at);
uint32_t load_shared_half(uint32_t at);
void store_shared_words(uint32_t at, const Words& v);
void store_shared_float(uint32_t at, float v);
Words load_global_words(const void* at);
uint16_t load_global_half(const uint16_t* at);
float load_global_float(const float* at);
int load_global_int(const int* at);
void store_global_words(void* at, const Words& v);
void store_global_half(uint16_t* at, uint16_t v);

void copy_async(uint32_t to, const void* from, bool valid);
void commit_copies();
void await_copies_but(int pending);
template <int pending>
void await_copies() {
    await_copies_but(pending);
}

void load_matrices(uint32_t (&m)[4], uint32_t at);
void multiply_add(Half type, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1);
void multiply_add(Brain type, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1);
void multiply_add_selected(Half type, int selector, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                           uint32_t metadata);
void multiply_add_selected(Brain type, int selector, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                           uint32_t metadata);
template <int selector, class T>
void multiply_add_sparse(T type, float (&d)[4], const Words& a, const uint32_t (&b)[4], uint32_t metadata) {
    multiply_add_selected(type, selector, d, a, b, metadata);
}

uint32_t pair_of(Half type, float low, float high);
uint32_t pair_of(Brain type, float low, float high);
float float_of(Half type, uint32_t bits);
float float_of(Brain type, uint32_t bits);
float float_bits(uint32_t bits);
float larger(float a, float b);

}  // namespace nmk_cuda

#endif  // NMK_EMULATED_PRIMITIVES_H
