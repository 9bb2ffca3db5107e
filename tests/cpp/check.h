// A unit-test header: TEST(name) { EXPECT(...); }, run by main.cpp.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace check {

struct Test {
    const char* name;
    std::function<void()> body;
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

inline int& failures() {
    static int count = 0;
    return count;
}

struct Register {
    Register(const char* name, std::function<void()> body) { tests().push_back({name, std::move(body)}); }
};

inline void fail(const char* file, int line, const std::string& what) {
    ++failures();
    std::printf("%s:%d: %s\n", file, line, what.c_str());
}

// Relative to the wanted value, or absolute below one.
inline bool close(double got, double wanted, double tolerance) {
    return std::abs(got - wanted) <= tolerance * std::max(1.0, std::abs(wanted));
}

}  // namespace check

#define TEST(name)                                              \
    static void test_##name();                                  \
    static check::Register register_##name{#name, test_##name}; \
    static void test_##name()

#define EXPECT(condition) \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition)

#define EXPECT_CLOSE(got, wanted, tolerance)                                                    \
    if (const double got_ = (got), wanted_ = (wanted); !check::close(got_, wanted_, tolerance)) \
    check::fail(__FILE__, __LINE__,                                                             \
                #got " is " + std::to_string(got_) + ", wanted " + std::to_string(wanted_))

#define EXPECT_THROWS(expression, part)                                                                  \
    try {                                                                                                \
        (void)(expression);                                                                              \
        check::fail(__FILE__, __LINE__, #expression " did not throw");                                   \
    } catch (const std::exception& error) {                                                              \
        if (std::string(error.what()).find(part) == std::string::npos)                                   \
            check::fail(__FILE__, __LINE__, std::string("wanted \"") + part + "\" in: " + error.what()); \
    }
