// cuda/primitives.cuh, instruction by instruction -> what PTX ISA 9 says each does, in plain C++.
#include <algorithm>
#include <array>
#include <cstring>

#include "machine.h"
#include "primitives.cuh"

namespace nmk_cuda {

using emulated::global;
using emulated::shared;

namespace {

template <class V>
V read(const void* at) {
    V v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

float half_to_float(uint32_t bits) { return static_cast<float>(read<_Float16>(&bits)); }
float brain_to_float(uint32_t bits) { return float_bits(bits << 16); }

template <class T>
float element(uint32_t word, int index) {
    return float_of(T{}, word >> (16 * index) & 0xFFFF);
}

void copy_now(const emulated::Copy& copy) {
    if (copy.valid) {
        std::memcpy(shared(copy.to, 16), global(copy.from, 16), 16);
    } else {
        std::memset(shared(copy.to, 16), 0, 16);
    }
}

// Row r and column c of an 8x8 matrix are held by lane 4r + c / 2.
int lane_of(int row, int column) { return row * 4 + column / 2; }

struct Product {
    float* d;
    const Words* a;
    uint32_t b[4];
    uint32_t metadata;
    int selector;
};

template <class T>
float weight(void* const* lanes, int row, int column) {
    const Product& lane = *static_cast<Product*>(lanes[lane_of(row % 8, column % 8)]);
    return element<T>(lane.a->w[column / 8 * 2 + row / 8], column % 2);
}

template <class T>
float pixel(void* const* lanes, int row, int column) {
    const Product& lane = *static_cast<Product*>(lanes[lane_of(column, row % 8)]);
    return element<T>(lane.b[row / 8], row % 2);
}

float& sum(void* const* lanes, int row, int column) {
    return static_cast<Product*>(lanes[lane_of(row % 8, column)])->d[row / 8 * 2 + column % 2];
}

// Adds a [16][depth], of which `value` gives an element, times the pixels.
template <class T, class Value>
void add_product(void* const* lanes, int depth, const Value& value) {
    float b[32][8];
    for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < 8; ++n) b[k][n] = pixel<T>(lanes, k, n);
    }
    for (int m = 0; m < 16; ++m) {
        float total[8] = {};
        for (int k = 0; k < 16; ++k) {
            const auto [a, place] = value(m, k);
            for (int n = 0; n < 8; ++n) total[n] += a * b[place][n];
        }
        for (int n = 0; n < 8; ++n) sum(lanes, m, n) += total[n];
    }
}

struct Element {
    float value;
    int place;
};

template <class T>
void dense_product(void* const* lanes) {
    add_product<T>(lanes, 16, [&](int m, int k) { return Element{weight<T>(lanes, m, k), k}; });
}

template <class T>
void sparse_product(void* const* lanes) {
    const int selector = static_cast<Product*>(lanes[0])->selector;
    add_product<T>(lanes, 32, [&](int m, int k) {
        const int holder = m % 8 * 4 + selector * 2 + k / 8;
        const uint32_t half = static_cast<Product*>(lanes[holder])->metadata >> (m / 8 * 16);
        const int group = k % 8 / 2;
        const int low = static_cast<int>(half >> (4 * group) & 3), high = static_cast<int>(half >> (4 * group + 2) & 3);
        if (low >= high) emulated::fail("metadata whose places do not rise");
        return Element{weight<T>(lanes, m, k), k / 2 * 4 + (k % 2 ? high : low)};
    });
}

struct Matrices {
    uint32_t* m;
    uint32_t at;
};

void read_matrices(void* const* lanes) {
    for (int i = 0; i < 4; ++i) {
        std::array<int, 8> rows_of_banks{};
        for (int row = 0; row < 8; ++row) {
            const uint32_t at = static_cast<Matrices*>(lanes[i * 8 + row])->at;
            ++rows_of_banks[at / 16 % 8];
            for (int c = 0; c < 4; ++c) {
                const uint32_t pair = read<uint32_t>(shared(at, 16) + 4 * c);
                static_cast<Matrices*>(lanes[row * 4 + c])->m[i] = pair;
            }
        }
        emulated::count_conflicts(*std::max_element(rows_of_banks.begin(), rows_of_banks.end()) - 1);
    }
}

void nothing(void* const*) {}

}  // namespace

int thread_index() { return emulated::thread(); }
int block_index() { return emulated::block(); }
int grid_size() { return emulated::grid(); }
void sync_block() { emulated::barrier(); }
void sync_warp() { emulated::together(&nothing, nullptr); }
uint32_t shared_base() { return 0; }

Words load_shared_words(uint32_t at) { return read<Words>(shared(at, 16)); }
uint32_t load_shared_word(uint32_t at) { return read<uint32_t>(shared(at, 4)); }
uint32_t load_shared_half(uint32_t at) { return read<uint16_t>(shared(at, 2)); }
void store_shared_words(uint32_t at, const Words& v) { std::memcpy(shared(at, 16), &v, 16); }
void store_shared_float(uint32_t at, float v) { std::memcpy(shared(at, 4), &v, 4); }
Words load_global_words(const void* at) { return read<Words>(global(at, 16)); }
uint16_t load_global_half(const uint16_t* at) { return read<uint16_t>(global(at, 2)); }
float load_global_float(const float* at) { return read<float>(global(at, 4)); }
int load_global_int(const int* at) { return read<int>(global(at, 4)); }
void store_global_words(void* at, const Words& v) { std::memcpy(global(at, 16), &v, 16); }
void store_global_half(uint16_t* at, uint16_t v) { std::memcpy(global(at, 2), &v, 2); }

void copy_async(uint32_t to, const void* from, bool valid) {
    if (emulated::copies_are_late()) {
        emulated::copies().groups.back().push_back({to, from, valid});
    } else {
        copy_now({to, from, valid});
    }
}

void commit_copies() { emulated::copies().groups.emplace_back(); }

void await_copies_but(int pending) {
    auto& groups = emulated::copies().groups;
    while (groups.size() > static_cast<size_t>(pending) + 1) {
        for (const emulated::Copy& copy : groups.front()) copy_now(copy);
        groups.erase(groups.begin());
    }
}

void load_matrices(uint32_t (&m)[4], uint32_t at) {
    Matrices operands{m, at};
    emulated::together(&read_matrices, &operands);
}

void multiply_add(Half, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1) {
    Product operands{d, &a, {b0, b1, 0, 0}, 0, 0};
    emulated::together(&dense_product<Half>, &operands);
}

void multiply_add(Brain, float (&d)[4], const Words& a, uint32_t b0, uint32_t b1) {
    Product operands{d, &a, {b0, b1, 0, 0}, 0, 0};
    emulated::together(&dense_product<Brain>, &operands);
}

void multiply_add_selected(Half, int selector, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                           uint32_t metadata) {
    Product operands{d, &a, {b[0], b[1], b[2], b[3]}, metadata, selector};
    emulated::together(&sparse_product<Half>, &operands);
}

void multiply_add_selected(Brain, int selector, float (&d)[4], const Words& a, const uint32_t (&b)[4],
                           uint32_t metadata) {
    Product operands{d, &a, {b[0], b[1], b[2], b[3]}, metadata, selector};
    emulated::together(&sparse_product<Brain>, &operands);
}

uint32_t pair_of(Half, float low, float high) {
    const _Float16 both[2] = {static_cast<_Float16>(low), static_cast<_Float16>(high)};
    return read<uint32_t>(both);
}

uint32_t pair_of(Brain, float low, float high) {
    const auto rounded = [](float v) {
        const uint32_t bits = read<uint32_t>(&v);
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

float float_of(Half, uint32_t bits) { return half_to_float(bits & 0xFFFF); }
float float_of(Brain, uint32_t bits) { return brain_to_float(bits); }
float float_bits(uint32_t bits) { return read<float>(&bits); }
float larger(float a, float b) { return a != a || a > b ? a : b; }

}  // namespace nmk_cuda
