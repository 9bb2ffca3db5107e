// The fused steps of the backward plan, without Python. Run once for each instruction set.
#include <algorithm>
#include <tuple>

#include "check.h"
#include "gradients.h"

using namespace gradients;

TEST(conv3x3_backward) {
    const int64_t C = 3, B = 2;
    // Channels and extents that are no multiple of a vector or of a tile, and more channels than one panel.
    for (const auto& [in, out, height, width] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{5, 7, 9, 6},
                                                 {64, 96, 8, 8},
                                                 {130, 33, 5, 11},
                                                 {1, 1, 1, 1}}) {
        const auto x = random({B, in, height, width}, at::kFloat);
        const auto g = random({C, B, out, height, width}, at::kFloat);
        const auto weight = random({out, in, 3, 3}, at::kFloat);
        const auto result = call_all("conv3x3_backward", g, weight, x);
        std::vector<at::Tensor> inputs, grads;
        for (int64_t c = 0; c < C; ++c) {
            std::vector<at::Tensor> samples;
            for (int64_t b = 0; b < B; ++b) {
                const auto [dx, dw, db] = at::convolution_backward(
                    exact(g[c].narrow(0, b, 1)), exact(x.narrow(0, b, 1)), exact(weight), std::nullopt,
                    {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1, {true, true, false});
                inputs.push_back(dx);
                samples.push_back(dw);
            }
            grads.push_back(at::stack(samples));
        }
        const auto dx = at::cat(inputs).reshape({C, B, in, height, width});
        // Winograd's sums round in proportion to all nine taps, also where (1 x 1) only the centre one
        // counts.
        const auto scale = std::max(dx.abs().max().item<double>(),
                                    g.abs().max().item<double>() * weight.norm().item<double>());
        EXPECT_CLOSE((exact(result[0].toTensor()) - dx).abs().max().item<double>() / scale, 0, 1e-5);
        EXPECT_CLOSE(error(result[1].toTensor(), wanted_sqnorm(at::stack(grads)), at::kFloat), 0, 1e-5);
    }
}

TEST(gate_backward) {
    const int64_t R = 3, B = 2, T = 29, O = 37;
    for (const auto dtype : {at::kDouble, at::kFloat})
        for (const bool multiply : {false, true}) {
            const auto g = random({R, B, T, O}, dtype), other = random({R, B, T, O}, dtype),
                       gate = random({B, T, O}, dtype), x = random({B, T, O}, dtype);
            const auto mean = random({O}, dtype), rstd = random({O}, dtype), factor = random({O}, dtype);
            const auto result = call_all("gate_backward", g, gate, multiply, std::vector<at::Tensor>{x},
                                         std::vector<at::Tensor>{mean}, std::vector<at::Tensor>{rstd},
                                         std::vector<at::Tensor>{factor}, true, other);
            const auto v = (exact(g) + exact(other)) * (multiply ? exact(gate) : exact(gate.gt(0)));
            const auto xhat = (exact(x) - exact(mean)) * exact(rstd);
            EXPECT_CLOSE(error(result[0].toTensor(), v, dtype), 0, tolerance(dtype));
            EXPECT_CLOSE(error(result[1].toTensor(), at::stack({v.sum(2), (v * xhat).sum(2)}), dtype), 0,
                         tolerance(dtype));
            EXPECT_CLOSE(error(result[2].toTensorVector()[0], v * exact(factor), dtype), 0, tolerance(dtype));
        }
}
