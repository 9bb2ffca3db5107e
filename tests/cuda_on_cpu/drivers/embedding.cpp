// embedding.cu: runs of equal tokens, pairs of rows, padding, dots.
#include "../../../csrc/cuda/kernels/embedding.h"

#include "driver.h"

using namespace driver;

int main() {
    const int64_t rows = 2, positions = 7, width = 130, entries = 4;
    const std::vector<int64_t> tokens{2, 0, 2, 3, 0, 2, 1}, sorted{0, 0, 1, 2, 2, 2, 3},
        order{1, 4, 6, 0, 2, 5, 3};
    std::unique_ptr<int64_t[]> unsorted(new int64_t[positions]), runs(new int64_t[positions]),
        places(new int64_t[positions]);
    std::copy(tokens.begin(), tokens.end(), unsorted.get());
    std::copy(sorted.begin(), sorted.end(), runs.get());
    std::copy(order.begin(), order.end(), places.get());
    const Data<__nv_bfloat16> g(rows * positions * width, 1), table(entries * width, 2);
    std::vector<std::vector<double>> gradient(rows, std::vector<double>(entries * width, 0.0));
    for (int64_t c = 0; c < rows; ++c)
        for (int64_t t = 0; t < positions; ++t)
            for (int64_t i = 0; i < width; ++i)
                if (tokens[t] != 3)
                    gradient[c][tokens[t] * width + i] += g.value[(c * positions + t) * width + i];

    EmbeddingParams p;
    p.g = g.element.get();
    p.tokens = runs.get();
    p.order = places.get();
    p.padding = 3;
    p.samples = 1;
    p.positions = positions;
    p.rows = rows;
    p.width = static_cast<int32_t>(width);
    p.items = 3;
    p.parts = tiles(width, kEmbeddingThreads);
    p.cross = true;
    std::unique_ptr<float[]> out(new float[rows * rows]());
    p.destination.out = out.get();
    expect("runs", launch_embedding_runs(ElementType::bf16, p.items * p.parts, p, nullptr));
    for (int64_t c = 0; c < rows; ++c)
        for (int64_t d = c; d < rows; ++d)
            expect_close("runs", out[c * rows + d], inner(gradient[c], gradient[d]),
                         inner(gradient[0], gradient[0]));

    std::unique_ptr<float[]> dots(new float[rows]());
    p.tokens = unsorted.get();
    p.table = table.element.get();
    p.entries = entries;
    p.items = rows;
    p.parts = tiles(positions, kEmbeddingDotPositions);
    p.cross = false;
    p.destination.out = dots.get();
    expect("dots", launch_embedding_dot(ElementType::bf16, p.items * p.parts, p, nullptr));
    for (int64_t c = 0; c < rows; ++c)
        expect_close("dots", dots[c], inner(gradient[c], table.value),
                     std::sqrt(inner(gradient[c], gradient[c]) * inner(table.value, table.value)));
    std::puts("embedding: ok");
}
