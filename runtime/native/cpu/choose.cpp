// CPU features, NMK_ISA and a program's own limit -> the family of kernels that it is loaded for.

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "nmk.h"

namespace nmk {

namespace {

[[maybe_unused]] constexpr uint64_t kAvx512 = NMK_AVX512F | NMK_AVX512BW | NMK_AVX512VL | NMK_AVX2 | NMK_FMA;

// What kernels of halves need, if the compiler made them.
#ifdef NMK_AVX512_FP16_KERNELS
constexpr uint64_t kFp16 = NMK_AVX512_FP16;
#else
[[maybe_unused]] constexpr uint64_t kFp16 = 0;
#endif

// Whether this process may use tiles: Linux grants them on request.
bool tiles_granted() {
#if defined(__linux__) && defined(__x86_64__)
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM
    static const bool granted = syscall(SYS_arch_prctl, request, tile_data) == 0;
    return granted;
#else
    return false;
#endif
}

struct Choice {
    const Kernels* kernels;
    Isa isa;
    uint64_t needed;

    bool runs_here() const {
        if ((nmk_cpu_features() & needed) != needed) return false;
        return (needed & NMK_AMX_TILE) == 0 || tiles_granted();
    }
};

const Choice kChoices[] = {
#ifdef NMK_AMX_KERNELS
    {&kAmxKernels, Isa::amx, kFp16 | kAvx512 | NMK_AVX512_BF16 | NMK_AMX_TILE | NMK_AMX_BF16},
#endif
#ifdef NMK_AVX512_FP16_KERNELS
    {&kAvx512Fp16Kernels, Isa::avx512_fp16, kFp16 | kAvx512 | NMK_AVX512_BF16},
#endif
#ifdef NMK_AVX512_BF16_KERNELS
    {&kAvx512Bf16Kernels, Isa::avx512_bf16, kAvx512 | NMK_AVX512_BF16},
#endif
#ifdef NMK_AVX512_KERNELS
    {&kAvx512Kernels, Isa::avx512, kAvx512},
#endif
#ifdef NMK_AVX2_KERNELS
    {&kAvx2Kernels, Isa::avx2, NMK_AVX2 | NMK_FMA},
#endif
    {&kPortableKernels, Isa::portable, 0},
};

const Choice* named(const char* name) {
    for (const Choice& choice : kChoices) {
        if (std::strcmp(name, choice.kernels->name) == 0) return &choice;
    }
    return nullptr;
}

}  // namespace

const Kernels* choose_kernels(Isa most, const char** why_not) {
    const char* wanted = std::getenv("NMK_ISA");
    Isa limit = most == Isa::best ? kChoices[0].isa : most;
    if (wanted != nullptr && std::strcmp(wanted, kTilesKernels.name) == 0) return &kTilesKernels;
    if (wanted != nullptr && *wanted != '\0') {
        const Choice* choice = named(wanted);
        if (choice == nullptr || !choice->runs_here()) {
            *why_not = choice == nullptr
                           ? "NMK_ISA is none of amx, avx512_fp16, avx512_bf16, avx512, avx2, portable; unset it"
                           : "this processor lacks the instruction set that NMK_ISA names; unset NMK_ISA";
            return nullptr;
        }
        limit = std::min(limit, choice->isa);
    }
    for (const Choice& choice : kChoices) {
        if (choice.isa <= limit && choice.runs_here()) return choice.kernels;
    }
    return &kPortableKernels;
}

}  // namespace nmk

const char* nmk_isa(uint32_t most) {
    const char* why_not = "";
    const nmk::Kernels* kernels = nmk::choose_kernels(static_cast<nmk::Isa>(most), &why_not);
    return kernels != nullptr ? kernels->name : "";
}
