#include "check.h"

int main() {
    for (const auto& test : check::tests()) {
        const int before = check::failures();
        try {
            test.body();
        } catch (const std::exception& error) {
            check::fail(test.name, 0, error.what());
        }
        std::printf("%s %s\n", check::failures() == before ? "ok    " : "FAILED", test.name);
    }
    std::printf("%zu tests, %d failures\n", check::tests().size(), check::failures());
    return check::failures() == 0 && !check::tests().empty() ? 0 : 1;
}
