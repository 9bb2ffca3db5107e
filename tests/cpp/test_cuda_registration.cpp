// Built with CUDA: every operator's CUDA kernel is in the library. Nothing runs on a GPU.
#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

#include "build_info.h"
#include "check.h"

TEST(every_operator_has_a_cuda_kernel) {
    auto& dispatcher = c10::Dispatcher::singleton();
    int found = 0;
    for (const char* family : {"linear", "conv", "bias", "affine", "embedding"})
        for (const char* kind : {"sqnorm", "dot", "gram"}) {
            const auto op = dispatcher.findSchema({std::string("gradfast::") + family + "_" + kind, ""});
            EXPECT(op && op->hasKernelForDispatchKey(c10::DispatchKey::CUDA));
            ++found;
        }
    EXPECT(found == 15);
    const auto gate = dispatcher.findSchema({"gradfast::gate_backward", ""});
    EXPECT(gate && gate->hasKernelForDispatchKey(c10::DispatchKey::CUDA));
}

TEST(the_library_says_what_it_was_built_for) {
    const auto info = gradfast::build_info();
    EXPECT(!info.cuda.empty());
    EXPECT(!info.cuda_archs.empty() && info.cuda_archs[0].rfind("sm_", 0) == 0);
}
