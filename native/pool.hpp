// A thread pool that sleeps while it has nothing to do, so that it does not fight torch's own.
#pragma once

#include <cstdint>
#include <functional>

// Calls work(first, last) for parts of 0..count, by so many threads at most, this one among them. A part has `least` or more.
void parallel_for(int64_t count, int64_t least, int threads, const std::function<void(int64_t, int64_t)>& work);
