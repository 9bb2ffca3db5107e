// The forms that a caller of linear_sqnorm and conv_sqnorm may ask for by name; nothing for "auto".
#pragma once

#include <optional>

#include "cost.h"

namespace gradfast {

inline std::optional<Form> linear_form(c10::string_view name, int64_t positions) {
    if (name == "auto") return std::nullopt;
    for (const Form form : {Form::direct, Form::gram, Form::rank_one})
        if (name == form_name(form)) {
            TORCH_CHECK_VALUE(form != Form::rank_one || positions == 1,
                              "linear_sqnorm: form is \"rank_one\" for T = ", positions, "; wanted T = 1");
            return form;
        }
    TORCH_CHECK_VALUE(false, "linear_sqnorm: form is \"", name, "\"; wanted auto, direct, gram or rank_one");
}

inline std::optional<Form> conv_form(c10::string_view name, const ConvShape& s) {
    if (name == "auto") return std::nullopt;
    for (const Form form : {Form::direct, Form::gram, Form::pixel_gram})
        if (name == form_name(form)) {
            TORCH_CHECK_VALUE(form_applies(form, s), "conv_sqnorm: form is \"pixel_gram\" for a ",
                              s.transposed ? "transposed convolution" : "convolution with stride",
                              "; wanted auto, direct or gram");
            return form;
        }
    TORCH_CHECK_VALUE(false, "conv_sqnorm: form is \"", name, "\"; wanted auto, direct, gram or pixel_gram");
}

}  // namespace gradfast
