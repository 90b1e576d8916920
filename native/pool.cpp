#include "pool.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace softmaxkit {

namespace {

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
Parallel shared = nullptr;

// Work in parts: each thread takes the next part until none is left, or one of them has thrown.
struct Parts {
    const std::function<void(int64_t, int64_t)>& work;
    int64_t count, part;
    std::atomic<int64_t> next{0};
    std::atomic_flag has_thrown{};
    std::exception_ptr error{};  // the first; the caller rethrows it when all threads are done

    // An exception must not leave a thread, nor the caller's while others still use its stack.
    void work_off() noexcept {
        try {
            for (int64_t first = next.fetch_add(part); first < count; first = next.fetch_add(part)) {
                work(first, std::min(first + part, count));
            }
        } catch (...) {
            next = count;
            if (!has_thrown.test_and_set()) error = std::current_exception();
        }
    }
};

class Pool {
public:
    void run(Parts& parts, int threads) {
        std::lock_guard<std::mutex> alone(caller_);  // one call at a time uses the workers
        {
            std::lock_guard<std::mutex> lock(mutex_);
            while (static_cast<int>(workers_.size()) < threads - 1) {
                const int index = static_cast<int>(workers_.size());
                workers_.emplace_back([this, index] { serve(index); });
            }
            parts_ = &parts;
            wanted_ = threads - 1;
            busy_ = threads - 1;
            ++round_;
        }
        wake_.notify_all();
        parts.work_off();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }

private:
    void serve(int index) {
        uint64_t seen = 0;
        for (;;) {
            Parts* parts;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_ != seen; });
                seen = round_;
                if (index >= wanted_) continue;
                parts = parts_;
            }
            parts->work_off();
            std::lock_guard<std::mutex> lock(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    std::mutex caller_, mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    Parts* parts_ = nullptr;
    int wanted_ = 0, busy_ = 0;
    uint64_t round_ = 0;
};

// Never destroyed: its threads sleep until the process ends. A forked child inherits no threads and gets its own pool.
Pool& pool() {
    static Pool* current = nullptr;
    static pid_t owner = 0;
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) {
        current = new Pool;
        owner = getpid();
    }
    return *current;
}

}  // namespace

void parallel_for(int64_t count, int64_t least, int threads, const std::function<void(int64_t, int64_t)>& work) {
    const int64_t useful = std::min<int64_t>(threads, (count + least - 1) / std::max<int64_t>(least, 1));
    if (useful <= 1) {
        if (count > 0) work(0, count);
        return;
    }
    // Several parts per thread, so that a thread that loses its core does not delay the others.
    const int64_t part = std::max(least, (count + 4 * useful - 1) / (4 * useful));
    Parts parts{work, count, part};
    if (shared != nullptr) {
        const auto work_off = [](void* address) { static_cast<Parts*>(address)->work_off(); };
        shared(work_off, &parts, static_cast<unsigned>(useful), 0);
    } else {
        pool().run(parts, static_cast<int>(useful));
    }
    if (parts.error) std::rethrow_exception(parts.error);
}

void share_threads(uintptr_t gomp_parallel) { shared = reinterpret_cast<Parallel>(gomp_parallel); }

}  // namespace softmaxkit
