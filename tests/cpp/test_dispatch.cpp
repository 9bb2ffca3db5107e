// Run once for each instruction set, with GRADFAST_CPU_ISA set to it.
#include <algorithm>
#include <cstdlib>
#include <set>

#include "check.h"
#include "cpu/dispatch.h"

using gradfast::cpu::Isa;

TEST(baseline_is_always_built_and_comes_first) {
    const auto built = gradfast::cpu::built_isas();
    EXPECT(!built.empty() && built.front() == Isa::baseline);
    EXPECT(std::is_sorted(built.begin(), built.end()));
}

TEST(names_are_distinct) {
    std::set<std::string> names;
    for (const Isa isa : gradfast::cpu::built_isas()) names.insert(gradfast::cpu::name(isa));
    EXPECT(names.size() == gradfast::cpu::built_isas().size());
}

TEST(chosen_is_built_and_no_higher_than_the_cap) {
    const auto built = gradfast::cpu::built_isas();
    const Isa chosen = gradfast::cpu::isa();
    EXPECT(std::find(built.begin(), built.end(), chosen) != built.end());
    const char* cap = std::getenv("GRADFAST_CPU_ISA");
    EXPECT(cap != nullptr);
    if (cap == nullptr) return;
    const auto named = std::find_if(built.begin(), built.end(),
                                    [&](Isa isa) { return gradfast::cpu::name(isa) == std::string(cap); });
    EXPECT(named != built.end() && chosen <= *named);
}
