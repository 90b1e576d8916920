// Work for several threads: those of torch's own OpenMP where it is known, else of a pool that sleeps while it has
// nothing to do. Two pools of which one spins would fight for the cores.
#pragma once

#include <cstdint>
#include <functional>

namespace softmaxkit {

// Calls work(first, last) for parts of 0..count, by up to so many threads, this one among them. A part has `least` or
// more.
void parallel_for(int64_t count, int64_t least, int threads, const std::function<void(int64_t, int64_t)>& work);

// Uses the threads of an OpenMP library from here on, given the address of its GOMP_parallel.
void share_threads(uintptr_t gomp_parallel);

}  // namespace softmaxkit
