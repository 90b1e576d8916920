// Parallel loops on torch's own OpenMP threads if their library was found, otherwise on a pool whose idle threads
// sleep: a second pool next to OpenMP's spinning threads would compete for the cores.
#pragma once

#include <cstdint>
#include <functional>

namespace softmaxkit {

// Calls work(first, last) for parts of 0..count on up to `threads` threads, including the calling one. Each part except
// the last has at least `least` elements. If parts throw, the rest is left out and one of the exceptions thrown again.
void parallel_for(int64_t count, int64_t least, int threads, const std::function<void(int64_t, int64_t)>& work);

// Makes later loops run on the threads of an OpenMP library, given the address of its GOMP_parallel; 0 for our own.
void share_threads(uintptr_t gomp_parallel);

}  // namespace softmaxkit
