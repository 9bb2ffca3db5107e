// What this binary is: the compiler, the torch and the instruction sets that it was built for.
#pragma once

#include <string>
#include <vector>

namespace gradfast {

struct BuildInfo {
    std::string version;                  // gradfast's own
    std::string torch;                    // version of the torch whose headers were used
    std::string compiler;                 // name and version
    std::string cxx_standard;             // "C++20"
    std::string cxx_flags;                // flags given beside those of torch
    std::vector<std::string> isas;        // instruction sets that were compiled, lowest first
    std::vector<std::string> cuda_archs;  // "sm_80", ...; empty: CPU only
    std::string cuda;                     // version of the CUDA compiler; empty: CPU only
};

BuildInfo build_info();

}  // namespace gradfast
