// RegisterCustomOps, by which ONNX Runtime takes the library in, and what it is.
#include "nmk_ort.h"

#include "op.h"
#include "threads.h"

using namespace nmk_ort;

namespace {

// ONNX Runtime keeps pointers to what it is given, for as long as sessions live: nothing here is ever freed.
void add(OrtSessionOptions* options) {
    OrtCustomOpDomain* domain = nullptr;
    check(g_api->CreateCustomOpDomain(kDomain, &domain));
    const int threads = threads_of(options);
    for (std::unique_ptr<Op> (*const make)() : {cpu_op, cuda_op}) {
        std::unique_ptr<Op> op = make();
        if (!op) continue;
        op->threads = threads;
        check(g_api->CustomOpDomain_Add(domain, op.release()));
    }
    check(g_api->AddCustomOpDomain(options, domain));
}

}  // namespace

extern "C" NMK_ORT_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    const OrtApi* api = base->GetApi(kApiVersion);
    if (api == nullptr) {
        // Only what every version has can say so.
        const OrtApi* old = base->GetApi(1);
        if (old == nullptr) return nullptr;
        const std::string text = std::string("libnmk_ort needs ONNX Runtime 1.") + std::to_string(kApiVersion) +
                                 " or later, found " + base->GetVersionString();
        return old->CreateStatus(ORT_FAIL, text.c_str());
    }
    g_api = api;
    return guarded([&] { add(options); });
}

int nmk_ort_abi_version(void) { return NMK_ORT_ABI_VERSION; }

int nmk_ort_has_cuda(void) { return cuda_op() ? 1 : 0; }
