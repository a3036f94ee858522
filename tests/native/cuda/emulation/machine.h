// What instructions need of the emulated device: the running thread, its warp, checked memory.
#ifndef NMK_EMULATED_MACHINE_H
#define NMK_EMULATED_MACHINE_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulated {

struct Copy {
    uint32_t to;
    const void* from;
    bool valid;
};

// The asynchronous copies of a thread: groups in the order of their commits, the last one open.
struct Copies {
    std::vector<std::vector<Copy>> groups{1};
};

int thread();
int block();
int grid();
Copies& copies();
bool copies_are_late();

// Waits for every thread of the block.
void barrier();

// Waits for the 32 lanes of the warp, does `operation` once with the operands of all, and goes on.
using Operation = void (*)(void* const* operands);
void together(Operation operation, void* operands);

// A place in shared or global memory; ends the launch with a message if it is outside or misaligned.
unsigned char* shared(uint32_t at, uint32_t bytes);
void* global(const void* at, size_t bytes);

// Ends the launch: CUDA's error, with this text.
[[noreturn]] void fail(const char* what);

// Counts rows of 8x8 matrices that waited for a bank.
void count_conflicts(int rows);

}  // namespace emulated

#endif  // NMK_EMULATED_MACHINE_H
