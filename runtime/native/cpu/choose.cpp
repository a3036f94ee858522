// CPU features and the variable NMK_ISA -> the family of kernels that programs are loaded for.

#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "nmk.h"

namespace nmk {

namespace {

struct Choice {
    const Kernels* kernels;
    uint64_t needed;
};

const Choice kChoices[] = {
#ifdef NMK_X86_KERNELS
    {&kAvx512Kernels, NMK_AVX512F | NMK_AVX512BW | NMK_AVX512VL | NMK_AVX2 | NMK_FMA},
    {&kAvx2Kernels, NMK_AVX2 | NMK_FMA},
#endif
    {&kPortableKernels, 0},
};

}  // namespace

const Kernels* choose_kernels(const char** why_not) {
    const char* wanted = std::getenv("NMK_ISA");
    const bool any = wanted == nullptr || *wanted == '\0';
    for (const Choice& choice : kChoices) {
        if (!any && std::strcmp(wanted, choice.kernels->name) != 0) continue;
        if ((nmk_cpu_features() & choice.needed) == choice.needed) return choice.kernels;
        if (!any) {
            *why_not = "this processor lacks the instruction set that NMK_ISA names; unset NMK_ISA";
            return nullptr;
        }
    }
    *why_not = "NMK_ISA is none of avx512, avx2, portable; unset it";
    return nullptr;
}

}  // namespace nmk

const char* nmk_isa(void) {
    const char* why_not = "";
    const nmk::Kernels* kernels = nmk::choose_kernels(&why_not);
    return kernels != nullptr ? kernels->name : "";
}
