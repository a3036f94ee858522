// A count -> that many zeroed items on a cache line of their own, freed with their owner.
#ifndef NMK_ALIGNED_H
#define NMK_ALIGNED_H

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace nmk {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

struct Freed {
    void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Aligned = std::unique_ptr<T[], Freed>;

template <class T>
Aligned<T> aligned(size_t count) {
    const size_t wanted = count * sizeof(T) + kLine;
    const size_t unit = wanted >= 2 * kHugePage ? kHugePage : kLine;
    const size_t bytes = (wanted + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, bytes);
    if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    std::memset(memory, 0, bytes);
    return Aligned<T>(static_cast<T*>(memory));
}

}  // namespace nmk

#endif  // NMK_ALIGNED_H
