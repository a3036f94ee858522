// CPUID and XGETBV -> the feature bits and the processor's name of nmk.h.

#include "nmk.h"

#include <string>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <cstring>
#define NMK_X86 1
#endif

namespace {

#ifdef NMK_X86

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the processor does not have this leaf.
Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    Registers r;
    if (__get_cpuid_max(leaf & 0x80000000u, nullptr) >= leaf) {
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    }
    return r;
}

bool bit(uint32_t word, int index) { return ((word >> index) & 1u) != 0; }

// XCR0: the register files that the operating system saves, and thus allows us to use.
uint64_t enabled_state() {
    constexpr int osxsave = 27;
    if (!bit(cpuid(1).ecx, osxsave)) return 0;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
}

uint64_t detect_features() {
    constexpr uint64_t avx_state = 0x6;         // XMM, YMM
    constexpr uint64_t avx512_state = 0xe6;     // and opmask, ZMM
    constexpr uint64_t amx_state = 0x60000;     // tile configuration, tile data
    const uint64_t state = enabled_state();
    const auto enabled = [state](uint64_t mask) { return (state & mask) == mask; };
    const Registers basic = cpuid(1), extended = cpuid(7);
    const Registers more = extended.eax >= 1 ? cpuid(7, 1) : Registers{};

    uint64_t found = 0;
    const auto add = [&found](uint64_t flag, bool present) { found |= present ? flag : 0; };
    if (enabled(avx_state)) {
        add(NMK_AVX2, bit(extended.ebx, 5));
        add(NMK_FMA, bit(basic.ecx, 12));
    }
    if (enabled(avx512_state) && bit(extended.ebx, 16)) {
        add(NMK_AVX512F, true);
        add(NMK_AVX512BW, bit(extended.ebx, 30));
        add(NMK_AVX512VL, bit(extended.ebx, 31));
        add(NMK_AVX512_BF16, bit(more.eax, 5));
        add(NMK_AVX512_FP16, bit(extended.edx, 23));
    }
    if (enabled(amx_state) && bit(extended.edx, 24)) {
        add(NMK_AMX_TILE, true);
        add(NMK_AMX_BF16, bit(extended.edx, 22));
        add(NMK_AMX_INT8, bit(extended.edx, 25));
    }
    return found;
}

std::string detect_name() {
    constexpr uint32_t first = 0x80000002u, last = 0x80000004u;
    char text[3 * sizeof(Registers) + 1] = {};
    for (uint32_t leaf = first; leaf <= last; ++leaf) {
        const Registers r = cpuid(leaf);
        std::memcpy(text + (leaf - first) * sizeof(Registers), &r, sizeof(Registers));
    }
    const std::string name = text;
    const auto begin = name.find_first_not_of(' ');
    if (begin == std::string::npos) return "unknown";
    return name.substr(begin, name.find_last_not_of(' ') - begin + 1);
}

#else

uint64_t detect_features() { return 0; }

std::string detect_name() { return "unknown"; }

#endif

}  // namespace

int nmk_abi_version(void) { return NMK_ABI_VERSION; }

const char* nmk_version(void) { return NMK_VERSION; }

uint64_t nmk_cpu_features(void) {
    static const uint64_t features = detect_features();
    return features;
}

const char* nmk_cpu_name(void) {
    static const std::string name = detect_name();
    return name.c_str();
}
