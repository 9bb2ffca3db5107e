// The threads of at::parallel_for by std::thread, for ThreadSanitizer: libgomp is not instrumented, so that
// the begin and the end of every region would look like races. These are what the kernels, compiled into the
// same program, call; they are hidden, and torch's own libraries go on with libgomp. Every region has threads
// of its own; a region within a region has one.
#include <ATen/Parallel.h>

#include <thread>
#include <vector>

namespace {

struct Team {
    int size = 1;
    int number = 0;
};
thread_local Team team;

}  // namespace

#pragma GCC visibility push(hidden)
extern "C" {

int omp_get_num_threads() {
    return team.size;
}
int omp_get_thread_num() {
    return team.number;
}

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
    const Team outer = team;
    const int size = outer.size > 1 ? 1 : threads > 0 ? static_cast<int>(threads) : at::get_num_threads();
    const auto run = [=](int number) {
        team = {size, number};
        body(data);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < size; ++i) others.emplace_back(run, i);
    run(0);
    for (auto& other : others) other.join();
    team = outer;
}

}  // extern "C"
#pragma GCC visibility pop
