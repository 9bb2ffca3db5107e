// Threads write one number, under the loop that the kernels use.
#include <ATen/Parallel.h>

#include <cstdio>

int main() {
    int64_t last = -1;
    at::parallel_for(0, 1000, 1, [&](int64_t begin, int64_t) { last = begin; });
    std::printf("last %lld\n", static_cast<long long>(last));
    return 0;
}
