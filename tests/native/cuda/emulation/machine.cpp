// Kernels compiled for this processor -> run as a GPU would: blocks one by one, a fiber a thread.
//
// A warp runs until all its lanes wait, in an order drawn anew at every turn, so that a missing barrier shows.
// Memory is checked at every access; what was never written reads as NaN.
#include "machine.h"

#include <csetjmp>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "params.h"

namespace emulated {
namespace {

constexpr size_t kStackBytes = 1 << 16;
constexpr int kLanes = 32;
constexpr unsigned char kPoison = 0xFF;  // NaN in every type

enum class State { kReady, kTogether, kBarrier, kDone };

// Started by setcontext, then switched by jumps, which leave the signal mask to the system alone.
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool started;
    State state;
    Operation operation;
    void* operands;
    Copies copies;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
};

struct Settings {
    int shared_of_block = 1 << 20, shared_of_processor = 1 << 20, processors = 2, late = 0, major = 8,
        checked = 1;
    unsigned seed = 0;
};

using Entry = void (*)(nmk_cuda::Params);

struct Machine {
    Settings settings;
    std::map<uintptr_t, size_t> allocations;
    std::map<const void*, size_t> allowed;  // shared memory of each kernel
    std::vector<unsigned char> shared;
    std::vector<std::unique_ptr<Fiber>> fibers;
    jmp_buf scheduler;
    int threads = 0, running = 0, block = 0, grid = 0;
    Entry entry = nullptr;
    const nmk_cuda::Params* params = nullptr;
    long conflicts = 0;
    int ever = 0;
    char problem[256] = "";
};

Machine machine;
std::mutex turn;  // of the threads that call: one launch or allocation at a time

Fiber& own() { return *machine.fibers[static_cast<size_t>(machine.running)]; }

void leave() {
    if (_setjmp(own().place) == 0) _longjmp(machine.scheduler, 1);
}

void enter(Fiber& fiber) {
    if (_setjmp(machine.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.context);
}

void run_thread() {
    machine.entry(*machine.params);
    own().state = State::kDone;
    leave();
}

void start(int index) {
    if (machine.fibers.size() <= static_cast<size_t>(index)) machine.fibers.emplace_back(new Fiber);
    Fiber& fiber = *machine.fibers[static_cast<size_t>(index)];
    fiber.state = State::kReady;
    fiber.started = false;
    fiber.copies = Copies{};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &run_thread, 0);
}

bool all(int first, int last, State state) {
    for (int i = first; i < last; ++i) {
        const State found = machine.fibers[static_cast<size_t>(i)]->state;
        if (found != state && found != State::kDone) return false;
    }
    return true;
}

// Runs the ready lanes of a warp, again and again, until none is; whether any was.
bool run_warp(int first) {
    bool any = false;
    for (bool more = true; more && !machine.problem[0];) {
        more = false;
        for (int i = first; i < first + kLanes && !machine.problem[0]; ++i) {
            Fiber& fiber = *machine.fibers[static_cast<size_t>(i)];
            if (fiber.state != State::kReady) continue;
            machine.running = i;
            enter(fiber);
            more = any = true;
        }
    }
    return any;
}

void run_block(std::mt19937& random) {
    std::fill(machine.shared.begin(), machine.shared.end(), kPoison);
    std::vector<int> warps;
    for (int i = 0; i < machine.threads; ++i) {
        start(i);
        if (i % kLanes == 0) warps.push_back(i);
    }
    while (!machine.problem[0] && !all(0, machine.threads, State::kDone)) {
        std::shuffle(warps.begin(), warps.end(), random);
        bool any = false;
        for (const int warp : warps) any = run_warp(warp) || any;
        if (any || machine.problem[0]) continue;
        if (!all(0, machine.threads, State::kBarrier)) {
            std::snprintf(machine.problem, sizeof machine.problem, "threads wait for each other for ever");
            return;
        }
        for (int i = 0; i < machine.threads; ++i) {
            Fiber& fiber = *machine.fibers[static_cast<size_t>(i)];
            if (fiber.state == State::kBarrier) fiber.state = State::kReady;
        }
    }
}

bool contains(uintptr_t at, size_t bytes) {
    auto after = machine.allocations.upper_bound(at);
    if (after == machine.allocations.begin()) return false;
    const auto& found = *--after;
    return at + bytes <= found.first + found.second;
}

}  // namespace

int thread() { return machine.running; }
int block() { return machine.block; }
int grid() { return machine.grid; }
Copies& copies() { return own().copies; }
bool copies_are_late() { return machine.settings.late != 0; }
void count_conflicts(int rows) { machine.conflicts += rows; }

void barrier() {
    own().state = State::kBarrier;
    leave();
}

void together(Operation operation, void* operands) {
    Fiber& fiber = own();
    fiber.operation = operation;
    fiber.operands = operands;
    fiber.state = State::kTogether;
    const int first = machine.running / kLanes * kLanes;
    void* every[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        const Fiber& lane = *machine.fibers[static_cast<size_t>(first + i)];
        if (lane.state != State::kTogether) return leave();
        if (lane.operation != operation) fail("lanes of a warp are at different instructions");
        every[i] = lane.operands;
    }
    operation(every);
    for (int i = 0; i < kLanes; ++i) machine.fibers[static_cast<size_t>(first + i)]->state = State::kReady;
}

unsigned char* shared(uint32_t at, uint32_t bytes) {
    if (at % bytes) fail("a misaligned access to shared memory");
    if (at + size_t{bytes} > machine.shared.size()) fail("an access outside of shared memory");
    return machine.shared.data() + at;
}

void* global(const void* at, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(at) % bytes) fail("a misaligned access to global memory");
    if (machine.settings.checked && !contains(reinterpret_cast<uintptr_t>(at), bytes)) fail("an access outside of global memory");
    return const_cast<void*>(at);
}

void fail(const char* what) {
    std::snprintf(machine.problem, sizeof machine.problem, "%s, thread %d of block %d", what, machine.running,
                  machine.block);
    _longjmp(machine.scheduler, 1);
}

}  // namespace emulated

using emulated::machine;

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const emulated::Settings& s = machine.settings;
    *value = attribute == cudaDevAttrComputeCapabilityMajor   ? s.major
             : attribute == cudaDevAttrMultiProcessorCount    ? s.processors
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? s.shared_of_block
                                                              : 0;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
    const std::lock_guard<std::mutex> lock(emulated::turn);
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value > machine.settings.shared_of_block) return cudaErrorInvalidValue;
        machine.allowed[function] = static_cast<size_t>(value);
    }
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t shared_bytes) {
    *blocks = machine.settings.shared_of_processor / static_cast<int>(shared_bytes + 1024);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t size) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // slow as it is, threads meet in it
    *pointer = ::operator new(size, std::align_val_t(256), std::nothrow);
    if (!*pointer) return cudaErrorMemoryAllocation;
    std::memset(*pointer, emulated::kPoison, size);
    const std::lock_guard<std::mutex> lock(emulated::turn);
    machine.allocations[reinterpret_cast<uintptr_t>(*pointer)] = size;
    ++machine.ever;
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
    const std::lock_guard<std::mutex> lock(emulated::turn);
    machine.allocations.erase(reinterpret_cast<uintptr_t>(pointer));
    ::operator delete(pointer, std::align_val_t(256));
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
    std::memcpy(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t) {
    const std::lock_guard<std::mutex> lock(emulated::turn);
    if (shared_bytes > machine.allowed[function]) return cudaErrorInvalidValue;
    std::mt19937 random(machine.settings.seed);
    machine.entry = reinterpret_cast<emulated::Entry>(const_cast<void*>(function));
    machine.params = static_cast<const nmk_cuda::Params*>(arguments[0]);
    machine.threads = static_cast<int>(block.x);
    machine.grid = static_cast<int>(grid.x);
    machine.shared.resize(shared_bytes);
    machine.problem[0] = 0;
    for (machine.block = 0; machine.block < machine.grid && !machine.problem[0]; ++machine.block) {
        emulated::run_block(random);
    }
    return machine.problem[0] ? cudaErrorIllegalAddress : cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaErrorIllegalAddress ? machine.problem
           : status == cudaErrorInvalidValue ? "invalid argument"
                                             : "out of memory";
}

extern "C" {

// The device that the next calls find; `late`: copies come when they are waited for, else at once; `checked`:
// global memory is what was allocated here.
__attribute__((visibility("default"))) void nmk_emulated_configure(int shared_of_block, int shared_of_processor,
                                                                   int processors, int major, int late,
                                                                   unsigned seed, int checked) {
    machine.settings = {shared_of_block, shared_of_processor, processors, late, major, checked, seed};
    machine.conflicts = 0;
}

__attribute__((visibility("default"))) long nmk_emulated_conflicts() { return machine.conflicts; }

// Pieces of memory: taken now, and ever.
__attribute__((visibility("default"))) void nmk_emulated_allocations(int* now, int* ever) {
    const std::lock_guard<std::mutex> lock(emulated::turn);
    *now = static_cast<int>(machine.allocations.size());
    *ever = machine.ever;
}

__attribute__((visibility("default"))) void* nmk_emulated_malloc(size_t size) {
    void* pointer = nullptr;
    cudaMalloc(&pointer, size);
    return pointer;
}

__attribute__((visibility("default"))) void nmk_emulated_free(void* pointer) { cudaFree(pointer); }
}
