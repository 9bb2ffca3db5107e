// torch.ops.gradfast_emulated: every op of gradfast that csrc/cuda implements, for CPU tensors, through the
// same host code and the emulated kernels. Load gradfast first: the schemas are its own.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

TORCH_LIBRARY(gradfast_emulated, m) {
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
        if (name.name.rfind("gradfast::", 0) != 0) continue;
        const auto op = dispatcher.findSchema(name);
        if (!op) continue;  // implemented, but not declared
        m.def(op->schema().cloneWithName("gradfast_emulated::" + name.name.substr(10), name.overload_name));
    }
}
