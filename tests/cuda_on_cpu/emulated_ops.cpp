// torch.ops.gradfast_emulated: every op of gradfast that csrc/cuda implements, for CPU tensors, through the
// same host code and the emulated kernels. Load gradfast first: the schemas are its own.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "../../csrc/cuda/kernels/contraction.h"

namespace {

// {m, n, k, stages, threads, bytes of dynamic shared memory} of a contraction kernel ("direct", "gram" or
// "dot").
std::vector<int64_t> tile_extent(c10::string_view kernel, int64_t math, bool large) {
    using namespace gradfast::cuda;
    const auto m = static_cast<Math>(math);
    const TileExtent e = kernel == "direct" ? direct_tile(m, large ? Tile::large : Tile::small)
                         : kernel == "gram" ? gram_tile(m)
                                            : dot_tile(m);
    return {e.m, e.n, e.k, e.stages, e.threads, e.dynamic_bytes};
}

}  // namespace

TORCH_LIBRARY(gradfast_emulated, m) {
    m.def("tile_extent(str kernel, int math, bool large) -> int[]", tile_extent);
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const auto& name : dispatcher.getAllOpNames()) {
        if (name.name.rfind("gradfast::", 0) != 0) continue;
        const auto op = dispatcher.findSchema(name);
        if (!op) continue;  // implemented, but not declared
        m.def(op->schema().cloneWithName("gradfast_emulated::" + name.name.substr(10), name.overload_name));
    }
}
