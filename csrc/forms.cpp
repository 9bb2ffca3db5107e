#include "forms.h"

#include <ATen/ops/empty.h>

#include "cost.h"
#include "cuda/plan.h"

namespace gradfast {
namespace {

ConvShape shape_of(const char* op, const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                   const ConvArguments& arguments) {
    const auto sizes_only = at::TensorOptions().device(at::kMeta);
    return conv_shape(op, at::empty(x, sizes_only), at::empty(g, sizes_only), arguments);
}

}  // namespace

WeightNormForms weight_norm_forms(const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                                  const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                                  int64_t groups, bool transposed, int64_t frames) {
    const ConvShape s = shape_of("weight_norm_forms", x, g,
                                 {kernel_size, stride, padding, dilation, groups, transposed, frames});
    WeightNormForms out{form_name(cheapest_form(s)), {}};
    for (const Form form : {Form::direct, Form::gram, Form::pixel_gram, Form::rank_one})
        if (form_applies(form, s)) out.flops.emplace_back(form_name(form), form_flops(form, s));
    return out;
}

double weight_gram_flops(const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                         const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                         const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                         int64_t groups, bool transposed, int64_t frames) {
    const ConvShape s = shape_of("weight_gram_flops", x, g,
                                 {kernel_size, stride, padding, dilation, groups, transposed, frames});
    return across_rows_flops(gram_across_rows_form(s), s);
}

std::pair<std::string, std::string> cuda_weight_norm_form(
    const std::vector<int64_t>& x, const std::vector<int64_t>& g, const std::vector<int64_t>& kernel_size,
    const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation, int64_t groups, bool transposed, int64_t frames,
    const std::string& math, int multiprocessors) {
    const char* op = "cuda_weight_norm_form";
    const ConvShape s =
        shape_of(op, x, g, {kernel_size, stride, padding, dilation, groups, transposed, frames});
    const auto size = cuda::contraction_size(s);
    const cuda::Math arithmetic = cuda::math_of_name(op, math);
    const Form form = cuda::choose_form(size, arithmetic);
    return {form_name(form), cuda::variant_name(form, size, arithmetic, multiprocessors)};
}

}  // namespace gradfast
