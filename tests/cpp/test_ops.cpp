// Every operator through the dispatcher, without Python, against the gradients written out in float64.
// Run once for each instruction set.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "check.h"

namespace {

constexpr int64_t C = 3, B = 2, T = 5, D = 4, O = 6;

template <class... Args>
at::Tensor call(const char* op, Args... args) {
    const auto handle =
        c10::Dispatcher::singleton().findSchemaOrThrow((std::string("gradfast::") + op).c_str(), "");
    torch::jit::Stack stack{c10::IValue(args)...};
    const auto& schema = handle.schema();
    for (size_t i = stack.size(); i < schema.arguments().size(); ++i)
        stack.push_back(*schema.arguments()[i].default_value());
    handle.callBoxed(stack);
    return stack[0].toTensor();
}

at::Tensor random(at::IntArrayRef size) {
    return at::randn(size, at::kDouble);
}

double largest_error(const at::Tensor& got, const at::Tensor& wanted) {
    if (got.sizes() != wanted.sizes()) return INFINITY;
    return ((got.to(at::kDouble) - wanted).abs() / wanted.abs().clamp_min(1)).max().item<double>();
}

// The three results that an operator's family gives of the gradients [C, B, ...].
at::Tensor wanted_sqnorm(const at::Tensor& grads) {
    return grads.square().flatten(2).sum(2).t();
}
at::Tensor wanted_dot(const at::Tensor& grads, const at::Tensor& ref) {
    return (grads * ref).flatten(2).sum(2).t();
}
at::Tensor wanted_gram(const at::Tensor& grads) {
    const auto rows = grads.flatten(2).transpose(0, 1);
    return at::matmul(rows, rows.transpose(1, 2));
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
    const auto x = random({B, T, D}), g = random({C, B, T, O}), ref = random({O, D});
    const auto grads = at::einsum("cbto,btd->cbod", {g, x});
    for (const char* form : {"auto", "direct", "gram"})
        EXPECT(largest_error(call("linear_sqnorm", x, g, form), wanted_sqnorm(grads)) < 1e-12);
    EXPECT(largest_error(call("linear_sqnorm", x.to(at::kFloat), g.to(at::kFloat)), wanted_sqnorm(grads)) <
           1e-4);
    EXPECT(largest_error(call("linear_dot", x, g, ref), wanted_dot(grads, ref)) < 1e-12);
    EXPECT(largest_error(call("linear_gram", x, g), wanted_gram(grads)) < 1e-12);
}

TEST(conv) {
    const auto x = random({B, D, 7, 6}), g = random({C, B, O, 4, 3});
    const std::vector<int64_t> kernel{3, 3}, stride{2, 2}, padding{1, 1}, dilation{1, 1};
    const int64_t groups = 2;
    std::vector<at::Tensor> rows;
    for (int64_t c = 0; c < C; ++c) {
        std::vector<at::Tensor> samples;
        for (int64_t b = 0; b < B; ++b)
            samples.push_back(std::get<1>(at::convolution_backward(
                g[c].narrow(0, b, 1), x.narrow(0, b, 1), at::zeros({O, D / groups, 3, 3}, x.options()),
                std::nullopt, stride, padding, dilation, false, {0, 0}, groups, {false, true, false})));
        rows.push_back(at::stack(samples));
    }
    const auto grads = at::stack(rows), ref = random({O, D / groups, 3, 3});
    EXPECT(largest_error(call("conv_sqnorm", x, g, kernel, stride, padding, dilation, groups),
                         wanted_sqnorm(grads)) < 1e-12);
    EXPECT(largest_error(call("conv_dot", x, g, ref, kernel, stride, padding, dilation, groups),
                         wanted_dot(grads, ref)) < 1e-12);
    EXPECT(largest_error(call("conv_gram", x, g, kernel, stride, padding, dilation, groups),
                         wanted_gram(grads)) < 1e-12);
}

TEST(bias_and_affine) {
    const auto g = random({C, B, O, T}), xhat = random({B, O, T}), ref = random({O});
    const auto bias = g.sum(3), affine = (g * xhat).sum(3);
    EXPECT(largest_error(call("bias_sqnorm", g), wanted_sqnorm(bias)) < 1e-12);
    EXPECT(largest_error(call("bias_dot", g, ref), wanted_dot(bias, ref)) < 1e-12);
    EXPECT(largest_error(call("bias_gram", g), wanted_gram(bias)) < 1e-12);
    EXPECT(largest_error(call("affine_sqnorm", xhat, g), wanted_sqnorm(affine)) < 1e-12);
    EXPECT(largest_error(call("affine_dot", xhat, g, ref), wanted_dot(affine, ref)) < 1e-12);
    EXPECT(largest_error(call("affine_gram", xhat, g), wanted_gram(affine)) < 1e-12);
}

TEST(embedding_sums_repeated_tokens_and_leaves_out_padding) {
    const int64_t vocabulary = 3, padding = 1;
    const auto indices = at::randint(vocabulary, {B, T}, at::kLong), g = random({C, B, T, D});
    const auto ref = random({vocabulary, D});
    const auto kept = indices.ne(padding).to(at::kDouble).unsqueeze(2);
    const auto grads =
        at::einsum("cbtd,btv->cbvd", {g, at::one_hot(indices, vocabulary).to(at::kDouble) * kept});
    EXPECT(largest_error(call("embedding_sqnorm", indices, g, padding), wanted_sqnorm(grads)) < 1e-12);
    EXPECT(largest_error(call("embedding_dot", indices, g, ref, padding), wanted_dot(grads, ref)) < 1e-12);
    EXPECT(largest_error(call("embedding_gram", indices, g, padding), wanted_gram(grads)) < 1e-12);
}

TEST(empty_batch) {
    EXPECT(call("linear_sqnorm", random({0, T, D}), random({C, 0, T, O})).sizes() ==
           (std::vector<int64_t>{0, C}));
    EXPECT(call("bias_sqnorm", random({0, B, O})).sizes() == (std::vector<int64_t>{B, 0}));
}

TEST(errors_name_the_argument) {
    EXPECT_THROWS(call("linear_sqnorm", random({B, T, D}), random({C, B, T + 1, O})), "g has shape");
    EXPECT_THROWS(call("linear_sqnorm", random({B, T, D}), random({C, B, T, O}), "fast"), "form");
    EXPECT_THROWS(call("bias_sqnorm", at::ones({C, B, O}, at::kLong)), "g has dtype");
}
