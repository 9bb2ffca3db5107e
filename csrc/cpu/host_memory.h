// What the C library does with memory that was freed.
#pragma once

#include <cstddef>

namespace gradfast::cpu {

// Lets the C library keep up to `bytes` of freed memory, for the whole process from now on, so that the next
// chunk of samples finds its pages mapped. False, and nothing done, where it is not glibc, or where the user
// has set its thresholds by the environment.
bool keep_freed_memory(std::size_t bytes);

// Gives the pages of all freed memory back to the system; false where it is not glibc.
bool release_freed_memory();

}  // namespace gradfast::cpu
