#include <ATen/ATen.h>

#include "check.h"
#include "conv_shape.h"

namespace {

gradfast::ConvShape shape(at::IntArrayRef x, at::IntArrayRef g, at::IntArrayRef kernel,
                          at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                          int64_t groups = 1, bool transposed = false, int64_t frames = 1) {
    return gradfast::conv_shape("conv_sqnorm", at::empty(x), at::empty(g),
                                {kernel, stride, padding, dilation, groups, transposed, frames});
}

}  // namespace

TEST(strided_padded_dilated_grouped) {
    // out = (17 + 2 * 2 - (2 * (3 - 1) + 1)) / 2 + 1 = 9, and (12 + 0 - 2) / 3 + 1 = 4
    const auto s = shape({2, 4, 17, 12}, {5, 2, 6, 9, 4}, {3, 2}, {2, 3}, {2, 0}, {2, 1}, 2);
    EXPECT(s.rows == 5 && s.samples == 2 && s.groups == 2);
    EXPECT(s.position_channels == 3 && s.window_channels == 2);
    EXPECT(s.positions() == 36 && s.taps() == 6 && s.window_width() == 12);
    EXPECT(!s.unit_stride() && !s.unpadded() && !s.pointwise());
}

TEST(missing_dimensions_have_extent_one) {
    const auto s = shape({1, 3, 8}, {1, 1, 2, 8}, {1}, {1}, {0}, {1});
    EXPECT(s.position == (gradfast::ConvShape::Extent{1, 1, 8}));
    EXPECT(s.pointwise());
}

TEST(frames_join_along_positions) {
    const auto s = shape({6, 3, 4, 4}, {2, 6, 5, 4, 4}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, 1, false, 3);
    EXPECT(s.samples == 2 && s.positions() == 48);
}

TEST(transposed_changes_the_places_of_x_and_g) {
    // out = (5 - 1) * 2 - 2 * 1 + 3 + output_padding, with output_padding 1
    const auto s = shape({2, 3, 5}, {1, 2, 7, 10}, {3}, {2}, {1}, {1}, 1, true);
    EXPECT(s.position_channels == 3 && s.window_channels == 7 && s.positions() == 5);
    EXPECT(gradfast::conv_output_padding(s) == std::vector<int64_t>{1});
    EXPECT(gradfast::conv_weight_shape(s) == (std::vector<int64_t>{3, 7, 3}));
}

TEST(errors_name_the_argument) {
    EXPECT_THROWS(shape({2, 4, 8}, {1, 3, 4, 8}, {1}, {1}, {0}, {1}), "g has 3 images");
    EXPECT_THROWS(shape({2, 4, 8}, {1, 2, 4, 7}, {1}, {1}, {0}, {1}), "g has extent 7");
    EXPECT_THROWS(shape({2, 4, 8}, {1, 2, 4, 8}, {1}, {0}, {0}, {1}), "stride");
    EXPECT_THROWS(shape({2, 4, 8}, {1, 2, 4, 8}, {1}, {1}, {0}, {1}, 3), "channels");
    EXPECT_THROWS(shape({2, 4, 8}, {1, 2, 4, 8}, {1, 1}, {1}, {0}, {1}), "kernel_size");
}
