// Prefetches memory, a cache line at a time.
#pragma once

#include <cstdint>

#include "inline.hpp"

namespace softmaxkit {

constexpr int64_t cache_line = 64;

// For loads; `locality` is 3 for the nearest cache, 2 for the next.
template <int locality = 3>
SOFTMAXKIT_INLINE void prefetch(const void* from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += cache_line) {
        __builtin_prefetch(static_cast<const char*>(from) + byte, 0, locality);
    }
}

// For stores.
SOFTMAXKIT_INLINE void prefetch_to_store(const void* to, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += cache_line) {
        __builtin_prefetch(static_cast<const char*>(to) + byte, 1);
    }
}

}  // namespace softmaxkit
