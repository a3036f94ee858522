// CPU features and the variable NMK_ISA -> the family of kernels that programs are loaded for.

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "nmk.h"

namespace nmk {

namespace {

[[maybe_unused]] constexpr uint64_t kAvx512 = NMK_AVX512F | NMK_AVX512BW | NMK_AVX512VL | NMK_AVX2 | NMK_FMA;

struct Choice {
    const Kernels* kernels;
    uint64_t needed;
};

const Choice kChoices[] = {
#ifdef NMK_AMX_KERNELS
    {&kAmxKernels, kAvx512 | NMK_AVX512_BF16 | NMK_AMX_TILE | NMK_AMX_BF16},
#endif
#ifdef NMK_AVX512_BF16_KERNELS
    {&kAvx512Bf16Kernels, kAvx512 | NMK_AVX512_BF16},
#endif
#ifdef NMK_AVX512_KERNELS
    {&kAvx512Kernels, kAvx512},
#endif
#ifdef NMK_AVX2_KERNELS
    {&kAvx2Kernels, NMK_AVX2 | NMK_FMA},
#endif
    {&kPortableKernels, 0},
    {&kTilesKernels, 0},
};

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

bool runs_here(const Choice& choice) {
    if ((nmk_cpu_features() & choice.needed) != choice.needed) return false;
    return (choice.needed & NMK_AMX_TILE) == 0 || tiles_granted();
}

}  // namespace

const Kernels* choose_kernels(const char** why_not) {
    const char* wanted = std::getenv("NMK_ISA");
    const bool any = wanted == nullptr || *wanted == '\0';
    for (const Choice& choice : kChoices) {
        if (!any && std::strcmp(wanted, choice.kernels->name) != 0) continue;
        if (runs_here(choice)) return choice.kernels;
        if (!any) {
            *why_not = "this processor lacks the instruction set that NMK_ISA names; unset NMK_ISA";
            return nullptr;
        }
    }
    *why_not = "NMK_ISA is none of amx, avx512_bf16, avx512, avx2, portable; unset it";
    return nullptr;
}

}  // namespace nmk

const char* nmk_isa(void) {
    const char* why_not = "";
    const nmk::Kernels* kernels = nmk::choose_kernels(&why_not);
    return kernels != nullptr ? kernels->name : "";
}
