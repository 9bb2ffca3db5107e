#include "forms.h"

#include <ATen/ops/empty.h>

#include "cost.h"

namespace gradfast {

WeightNormForms weight_norm_forms(const std::vector<int64_t>& x, const std::vector<int64_t>& g,
                                  const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                                  int64_t groups, bool transposed, int64_t frames) {
    const auto sizes_only = at::TensorOptions().device(at::kMeta);
    const ConvShape s = conv_shape("weight_norm_forms", at::empty(x, sizes_only), at::empty(g, sizes_only),
                                   {kernel_size, stride, padding, dilation, groups, transposed, frames});
    WeightNormForms out{form_name(cheapest_form(s)), {}};
    for (const Form form : {Form::direct, Form::gram, Form::pixel_gram, Form::rank_one})
        if (form_applies(form, s)) out.flops.emplace_back(form_name(form), form_flops(form, s));
    return out;
}

}  // namespace gradfast
