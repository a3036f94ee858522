// A count -> that many zeroed items on a cache line of their own, freed with their owner.
#ifndef NMK_ALIGNED_H
#define NMK_ALIGNED_H

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace nmk {

constexpr size_t kLine = 64;

struct Freed {
    void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Aligned = std::unique_ptr<T[], Freed>;

template <class T>
Aligned<T> aligned(size_t count) {
    const size_t bytes = (count * sizeof(T) + kLine - 1) / kLine * kLine + kLine;
    void* memory = std::aligned_alloc(kLine, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    return Aligned<T>(static_cast<T*>(memory));
}

}  // namespace nmk

#endif  // NMK_ALIGNED_H
