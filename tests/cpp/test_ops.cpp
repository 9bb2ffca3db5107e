// The operators of single layers, without Python. Run once for each instruction set: sizes are odd, so that
// every kernel meets the tail of a vector.
#include "check.h"
#include "gradients.h"

using namespace gradients;

namespace {

constexpr int64_t C = 3, B = 2;

struct Conv {
    Shape x, g, kernel, stride, padding, dilation;
    int64_t groups = 1;
    bool transposed = false;
};

// [C, B, *weight], by torch's own backward of one sample and one row at a time.
at::Tensor conv_gradients(const Conv& k, const at::Tensor& x, const at::Tensor& g, const Shape& weight) {
    std::vector<at::Tensor> rows;
    for (int64_t c = 0; c < g.size(0); ++c) {
        std::vector<at::Tensor> samples;
        for (int64_t b = 0; b < g.size(1); ++b)
            samples.push_back(std::get<1>(at::convolution_backward(
                g[c].narrow(0, b, 1), x.narrow(0, b, 1), at::zeros(weight, x.options()), std::nullopt,
                k.stride, k.padding, k.dilation, k.transposed, Shape(k.kernel.size(), 0), k.groups,
                {false, true, false})));
        rows.push_back(at::stack(samples));
    }
    return at::stack(rows);
}

void check_conv(const Conv& k, at::ScalarType dtype, const std::vector<const char*>& forms) {
    const auto x = random(k.x, dtype), g = random(k.g, dtype);
    Shape weight{k.transposed ? k.x[1] : k.g[2], (k.transposed ? k.g[2] : k.x[1]) / k.groups};
    weight.insert(weight.end(), k.kernel.begin(), k.kernel.end());
    const auto ref = random(weight, dtype), grads = conv_gradients(k, exact(x), exact(g), weight);
    for (const char* form : forms) {
        const auto got = call("conv_sqnorm", x, g, k.kernel, k.stride, k.padding, k.dilation, k.groups,
                              k.transposed, int64_t(1), form);
        EXPECT_CLOSE(error(got, wanted_sqnorm(grads), dtype), 0, tolerance(dtype));
    }
    const auto dot =
        call("conv_dot", x, g, ref, k.kernel, k.stride, k.padding, k.dilation, k.groups, k.transposed);
    const auto both = call_all("conv_sqnorm_dot", x, g, ref, k.kernel, k.stride, k.padding, k.dilation,
                               k.groups, k.transposed);
    EXPECT_CLOSE(error(both[0].toTensor(), wanted_sqnorm(grads), dtype), 0, tolerance(dtype));
    // Relative to the norms: the products may cancel.
    const double scale = (grads.norm() * exact(ref).norm()).item<double>();
    for (const auto& got : {dot, both[1].toTensor()})
        EXPECT_CLOSE((exact(got) - wanted_dot(grads, exact(ref))).abs().max().item<double>() / scale, 0,
                     tolerance(dtype));
    const auto gram =
        call("conv_gram", x, g, k.kernel, k.stride, k.padding, k.dilation, k.groups, k.transposed);
    EXPECT_CLOSE(error(gram, wanted_gram(grads), dtype), 0, tolerance(dtype));
}

}  // namespace

TEST(every_schema_has_a_cpu_kernel) {
    int found = 0;
    for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
        if (name.name.rfind("gradfast::", 0) != 0) continue;
        ++found;
        const auto handle = c10::Dispatcher::singleton().findOp(name);
        if (!handle || !handle->hasSchema()) {
            check::fail(__FILE__, __LINE__, name.name + " has a kernel but is not in csrc/ops.cpp");
        } else if (!handle->hasKernelForDispatchKey(c10::DispatchKey::CPU)) {
            check::fail(__FILE__, __LINE__, name.name + " has no CPU kernel");
        }
    }
    EXPECT(found >= 15);
}

TEST(linear) {
    for (const auto dtype : kDtypes)
        for (const int64_t positions : {1, 5, 67}) {
            const int64_t D = 37, O = 21;
            const auto x = random({B, positions, D}, dtype), g = random({C, B, positions, O}, dtype);
            const auto ref = random({O, D}, dtype);
            const auto grads = at::einsum("cbto,btd->cbod", {exact(g), exact(x)});
            for (const char* form : {"auto", "direct", "gram"})
                EXPECT_CLOSE(error(call("linear_sqnorm", x, g, form), wanted_sqnorm(grads), dtype), 0,
                             tolerance(dtype));
            EXPECT_CLOSE(error(call("linear_gram", x, g), wanted_gram(grads), dtype), 0, tolerance(dtype));
            const double scale = (grads.norm() * exact(ref).norm()).item<double>();
            const auto dot = exact(call("linear_dot", x, g, ref)) - wanted_dot(grads, exact(ref));
            EXPECT_CLOSE(dot.abs().max().item<double>() / scale, 0, tolerance(dtype));
        }
}

TEST(conv) {
    const Conv same{{B, 19, 9, 7}, {C, B, 21, 9, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
    const Conv strided{{B, 6, 11, 9}, {C, B, 10, 6, 4}, {3, 2}, {2, 2}, {1, 0}, {1, 1}, 2};
    const Conv depthwise{{B, 35, 9, 7}, {C, B, 35, 9, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 35};
    const Conv line{{B, 5, 33}, {C, B, 18, 29}, {3}, {1}, {0}, {2}};
    const Conv volume{{B, 3, 4, 5, 6}, {C, B, 7, 2, 3, 3}, {2, 3, 2}, {2, 1, 2}, {0, 0, 0}, {1, 1, 1}};
    for (const auto dtype : kDtypes) {
        check_conv(same, dtype, {"auto", "direct", "gram", "pixel_gram"});
        check_conv(strided, dtype, {"auto", "direct", "gram"});
        check_conv(depthwise, dtype, {"auto"});
        check_conv(line, dtype, {"auto", "direct", "gram"});
        check_conv(volume, dtype, {"auto", "direct", "gram"});
    }
}

TEST(transposed_conv) {
    const Conv up{{B, 18, 5, 4}, {C, B, 7, 11, 9}, {3, 3}, {2, 2}, {0, 0}, {1, 1}, 1, true};
    for (const auto dtype : kDtypes) check_conv(up, dtype, {"auto", "direct", "gram"});
}

TEST(bias_and_affine) {
    const int64_t O = 37, positions = 29;
    for (const auto dtype : kDtypes) {
        const auto g = random({C, B, O, positions}, dtype), xhat = random({B, O, positions}, dtype);
        const auto ref = random({O}, dtype), bias = exact(g).sum(3), affine = (exact(g) * exact(xhat)).sum(3);
        const double limit = tolerance(dtype);
        EXPECT_CLOSE(error(call("bias_sqnorm", g), wanted_sqnorm(bias), dtype), 0, limit);
        EXPECT_CLOSE(error(call("bias_dot", g, ref), wanted_dot(bias, exact(ref)), dtype), 0, limit);
        EXPECT_CLOSE(error(call("bias_gram", g), wanted_gram(bias), dtype), 0, limit);
        EXPECT_CLOSE(error(call("affine_sqnorm", xhat, g), wanted_sqnorm(affine), dtype), 0, limit);
        EXPECT_CLOSE(error(call("affine_dot", xhat, g, ref), wanted_dot(affine, exact(ref)), dtype), 0,
                     limit);
        EXPECT_CLOSE(error(call("affine_gram", xhat, g), wanted_gram(affine), dtype), 0, limit);
    }
}

TEST(embedding_sums_repeated_tokens_and_leaves_out_padding) {
    const int64_t vocabulary = 3, positions = 13, D = 35, padding = 1;
    const auto indices = at::randint(vocabulary, {B, positions}, at::kLong);
    const auto kept = indices.ne(padding).to(at::kDouble).unsqueeze(2);
    for (const auto dtype : kDtypes) {
        const auto g = random({C, B, positions, D}, dtype), ref = random({vocabulary, D}, dtype);
        const auto chosen = at::one_hot(indices, vocabulary).to(at::kDouble) * kept;
        const auto grads = at::einsum("cbtd,btv->cbvd", {exact(g), chosen});
        const double limit = tolerance(dtype);
        EXPECT_CLOSE(error(call("embedding_sqnorm", indices, g, padding), wanted_sqnorm(grads), dtype), 0,
                     limit);
        EXPECT_CLOSE(
            error(call("embedding_dot", indices, g, ref, padding), wanted_dot(grads, exact(ref)), dtype), 0,
            limit);
        EXPECT_CLOSE(error(call("embedding_gram", indices, g, padding), wanted_gram(grads), dtype), 0, limit);
    }
}

TEST(empty_batch) {
    EXPECT(call("linear_sqnorm", random({0, 5, 4}), random({C, 0, 5, 6})).sizes() == (Shape{0, C}));
    EXPECT(call("bias_sqnorm", random({0, B, 6})).sizes() == (Shape{B, 0}));
}

TEST(errors_name_the_argument) {
    EXPECT_THROWS(call("linear_sqnorm", random({B, 5, 4}), random({C, B, 6, 3})), "g has shape");
    EXPECT_THROWS(call("linear_sqnorm", random({B, 5, 4}), random({C, B, 5, 3}), "fast"), "form");
    EXPECT_THROWS(call("bias_sqnorm", at::ones({C, B, 6}, at::kLong)), "g has dtype");
}
