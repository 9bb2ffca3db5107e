#include "build_info.h"

#include <torch/version.h>

#include <sstream>

#include "cpu/dispatch.h"

// The build passes these; the fallbacks keep the file valid for an editor or a linter.
#ifndef GRADFAST_VERSION
#define GRADFAST_VERSION "unknown"
#endif
#ifndef GRADFAST_CXX_FLAGS
#define GRADFAST_CXX_FLAGS ""
#endif
#ifndef GRADFAST_CUDA_ARCHS
#define GRADFAST_CUDA_ARCHS ""
#endif
#ifndef GRADFAST_CUDA_VERSION
#define GRADFAST_CUDA_VERSION ""
#endif

// Readable from the file itself, so that an extension that no longer loads can still say what it was built
// for.
extern "C" __attribute__((used, visibility("default"))) const char gradfast_torch_marker[] =
    "gradfast-built-for-torch=" TORCH_VERSION;
extern "C" __attribute__((used, visibility("default"))) const char gradfast_cuda_marker[] =
    "gradfast-built-for-cuda=" GRADFAST_CUDA_VERSION;

namespace gradfast {
namespace {

std::string compiler() {
    std::ostringstream out;
#if defined(__clang__)
    out << "Clang " << __clang_major__ << '.' << __clang_minor__ << '.' << __clang_patchlevel__;
#elif defined(__GNUC__)
    out << "GCC " << __GNUC__ << '.' << __GNUC_MINOR__ << '.' << __GNUC_PATCHLEVEL__;
#else
    out << "unknown";
#endif
    return out.str();
}

std::vector<std::string> words(const std::string& text) {
    std::istringstream in(text);
    std::vector<std::string> out;
    for (std::string word; in >> word;) out.push_back(word);
    return out;
}

}  // namespace

BuildInfo build_info() {
    BuildInfo info;
    info.version = GRADFAST_VERSION;
    info.torch = TORCH_VERSION;
    info.compiler = compiler();
    info.cxx_standard = "C++" + std::to_string(__cplusplus / 100 % 100);
    info.cxx_flags = GRADFAST_CXX_FLAGS;
    for (const auto isa : cpu::built_isas()) info.isas.emplace_back(cpu::name(isa));
    info.cuda_archs = words(GRADFAST_CUDA_ARCHS);
    info.cuda = GRADFAST_CUDA_VERSION;
    return info;
}

}  // namespace gradfast
