// Runs a kernel over all rows: in parallel, with or without a mask, and with non-temporal stores for large results.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <string>

#include "access.hpp"
#include "pool.hpp"
#include "rows.hpp"

namespace softmaxkit {

constexpr int64_t least_work = 1 << 14;  // minimum elements per thread: waking a thread for fewer takes longer

inline int64_t least_rows(int64_t keys) { return std::max<int64_t>(1, least_work / std::max<int64_t>(keys, 1)); }

// Bytes of results that exceed a core's share of the last-level cache. A constant, as the sizes that the C library
// reports are wrong on many virtual machines.
constexpr int64_t large = 8 << 20;

// Whether results are written with non-temporal stores: they exceed the caches, and every row is aligned to vectors.
template <class T>
bool streams(uintptr_t to, const Layout& layout) {
    bool aligned = to % (width * sizeof(T)) == 0;
    for (int axis = 0; axis < outer; ++axis) {
        aligned = aligned && (layout.sizes[axis] == 1 || layout.to[axis] % width == 0);
    }
    return aligned && layout.rows() * layout.keys * static_cast<int64_t>(sizeof(T)) > large;
}

// Calls row(scores, to, keys, place) for all rows, and row.flush(), if there is such, after the last one of a thread,
// which has its own copy. Set may_stream to false if the row kernel reads its results again.
template <class T, bool may_stream = can_stream, class Row>
void run_rows(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const Row& shared) {
    const bool streamed = may_stream && streams<T>(to, layout);
    parallel_for(layout.rows(), least_rows(layout.keys), threads, [&](int64_t begin, int64_t end) {
        Row row = shared;
        visit_rows<T>(from, to, mask, layout, begin, end,
                      [&](const T* scores, T* result, const uint8_t* bits, int64_t keys, const Place& place) {
                          const auto finish = [&](const auto& of) {
                              if constexpr (may_stream) {
                                  if (streamed) return row(of, Streamed<T>{result}, keys, place);
                              }
                              row(of, result, keys, place);
                          };
                          bits != nullptr ? finish(Scores<T, true>{scores, bits})
                                          : finish(Scores<T, false>{scores, nullptr});
                      });
        if constexpr (requires { row.flush(); }) row.flush();
        // No weaker fence orders non-temporal stores.
        if (streamed) std::atomic_thread_fence(std::memory_order_seq_cst);
    });
}

// Binds a kernel as `{kernel}_{type}`.
template <class Function>
void define(nanobind::module_& m, const std::string& kernel, const char* type, Function function) {
    m.def((kernel + "_" + type).c_str(), function, nanobind::call_guard<nanobind::gil_scoped_release>());
}

}  // namespace softmaxkit
