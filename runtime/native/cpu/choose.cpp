// CPU features, NMK_ISA and a program's own limit -> the family of kernels that it is loaded for.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels.h"
#include "nmk.h"

namespace nmk {

namespace {

struct Choice {
    const Kernels* kernels;
    Isa isa;
    uint64_t needed;

    bool runs_here() const { return (nmk_cpu_features() & needed) == needed; }
};

const Choice kChoices[] = {
#ifdef NMK_X86_KERNELS
    {&kAvx512Kernels, Isa::avx512,
     NMK_AVX512F | NMK_AVX512BW | NMK_AVX512VL | NMK_AVX2 | NMK_FMA},
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
    if (wanted != nullptr && *wanted != '\0') {
        const Choice* choice = named(wanted);
        if (choice == nullptr || !choice->runs_here()) {
            *why_not = choice == nullptr
                           ? "NMK_ISA is none of avx512, avx2, portable; unset it"
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

const char* nmk_isa(void) {
    const char* why_not = "";
    const nmk::Kernels* kernels = nmk::choose_kernels(nmk::Isa::best, &why_not);
    return kernels != nullptr ? kernels->name : "";
}
