// Softmax of rows: pointers and a layout in, results where the caller wants them. Python checks what is given.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "consmax.hpp"
#include "exact.hpp"
#include "exaq.hpp"
#include "exaq_packed.hpp"
#include "modules.hpp"
#include "pool.hpp"
#include "rows.hpp"
#include "topk.hpp"

namespace nb = nanobind;

namespace {

constexpr int64_t least_work = 1 << 14;  // elements below which another thread takes longer to wake than to help

int64_t least_rows(int64_t keys) { return std::max<int64_t>(1, least_work / std::max<int64_t>(keys, 1)); }

// Bytes of results that exceed a core's share of the last cache. What the C library says of caches is wrong on many virtual
// machines.
constexpr int64_t large = 8 << 20;

#if defined(__AVX512F__)
constexpr bool can_stream = true;
#else
constexpr bool can_stream = false;
#endif

// Whether results go past the caches: they are too large to stay there, and every row is aligned to vectors.
template <class T>
bool streams(uintptr_t to, const Layout& layout) {
    bool aligned = to % (width * sizeof(T)) == 0;
    for (int axis = 0; axis < outer; ++axis) aligned = aligned && (layout.sizes[axis] == 1 || layout.to[axis] % width == 0);
    return aligned && layout.rows() * layout.keys * static_cast<int64_t>(sizeof(T)) > large;
}

// Goes through all rows: row(scores, to, keys, head). Results may be streamed unless the row reads them again.
template <class T, bool may_stream = can_stream, class Row>
void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const Row& row) {
    const bool past = may_stream && streams<T>(to, layout);
    parallel_for(layout.rows(), least_rows(layout.keys), threads, [&](int64_t begin, int64_t end) {
        each_row<T>(from, to, mask, layout, begin, end,
                    [&](const T* scores, T* result, const uint8_t* bits, int64_t keys, const Place& place) {
                        const auto finish = [&](const auto& of) {
                            if constexpr (may_stream) {
                                if (past) return row(of, Streamed<T>{result}, keys, place.head);
                            }
                            row(of, result, keys, place.head);
                        };
                        bits != nullptr ? finish(Scores<T, true>{scores, bits}) : finish(Scores<T, false>{scores, nullptr});
                    });
        if (past) std::atomic_thread_fence(std::memory_order_seq_cst);  // what is streamed heeds no lesser order
    });
}

template <class T>
void exact(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads) {
    run<T, false>(from, to, mask, layout, threads,
                  [](const auto& scores, T* result, int64_t keys, int64_t) { exact_row(scores, result, keys); });
}

template <class T>
void exact_backward(uintptr_t probabilities, uintptr_t gradient, uintptr_t to, int64_t rows, int64_t keys, int threads) {
    parallel_for(rows, least_rows(keys), threads, [=](int64_t begin, int64_t end) {
        for (int64_t at = begin * keys; at < end * keys; at += keys) {
            exact_backward_row(reinterpret_cast<const T*>(probabilities) + at, reinterpret_cast<const T*>(gradient) + at,
                               reinterpret_cast<T*>(to) + at, keys);
        }
    });
}

// `offsets` are beta + log(gamma), float32, one or one for each head.
template <class T>
void consmax(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, uintptr_t offsets,
             bool per_head, float limit) {
    const float* of = reinterpret_cast<const float*>(offsets);
    run<T>(from, to, mask, layout, threads, [=](const auto& scores, auto result, int64_t keys, int64_t head) {
        consmax_row(scores, result, keys, of[per_head ? head : 0], limit);
    });
}

// `sums` takes the sum of each row's gradient, float32.
template <class T>
void consmax_backward(uintptr_t probabilities, uintptr_t gradient, uintptr_t to, int64_t rows, int64_t keys, int threads,
                      uintptr_t sums, float ceiling) {
    parallel_for(rows, least_rows(keys), threads, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin, at = begin * keys; row < end; ++row, at += keys) {
            reinterpret_cast<float*>(sums)[row] =
                consmax_backward_row(reinterpret_cast<const T*>(probabilities) + at,
                                     reinterpret_cast<const T*>(gradient) + at, reinterpret_cast<T*>(to) + at, keys, ceiling);
        }
    });
}

// Calls body(count) with the number of levels as a constant.
template <class Body>
void with_count(const Levels& levels, const Body& body) {
    if (levels.count == 4) body(std::integral_constant<int, 4>{});
    if (levels.count == 8) body(std::integral_constant<int, 8>{});
    if (levels.count == 16) body(std::integral_constant<int, 16>{});
}

template <class T>
void exaq(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float clip,
          const std::vector<float>& exponentials) {
    const Levels levels(clip, exponentials);
    with_count(levels, [&](auto count) {
        run<T>(from, to, mask, layout, threads, [&](const auto& scores, auto result, int64_t keys, int64_t) {
            exaq_row<count>(scores, result, keys, levels);
        });
    });
}

// `codes` take so many bytes a row as its keys fill, `probabilities` one number for each level, `told` whether each row could
// be done; infinity and NaN cannot.
template <class T>
void exaq_packed(uintptr_t from, uintptr_t codes, uintptr_t probabilities, uintptr_t told, int64_t rows, int64_t keys,
                 int threads, float clip, const std::vector<float>& exponentials) {
    const Levels levels(clip, exponentials);
    with_count(levels, [&](auto count) {
        const int64_t bytes = (keys + codes_in_byte<count> - 1) / codes_in_byte<count>;
        parallel_for(rows, least_rows(keys), threads, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const Scores<T, false> scores{reinterpret_cast<const T*>(from) + row * keys, nullptr};
                reinterpret_cast<bool*>(told)[row] =
                    exaq_packed_row<count>(scores, reinterpret_cast<uint8_t*>(codes) + row * bytes,
                                           reinterpret_cast<float*>(probabilities) + row * count, keys, levels);
            }
        });
    });
}

// `told` takes whether each row could be done; infinity and NaN cannot.
template <class T>
void topk(uintptr_t logits, uintptr_t values, uintptr_t indices, uintptr_t told, int64_t rows, int64_t size, int64_t k,
          int threads) {
    parallel_for(rows, least_rows(size), threads, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            reinterpret_cast<bool*>(told)[row] =
                topk_row(reinterpret_cast<const T*>(logits) + row * size, reinterpret_cast<T*>(values) + row * k,
                         reinterpret_cast<int64_t*>(indices) + row * k, size, k);
        }
    });
}

// Lets new memory come in huge pages, of which each is one fault instead of 512.
void huge_pages(uintptr_t from, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = (from + page - 1) / page * page;
    if (from + bytes > begin) madvise(reinterpret_cast<void*>(begin), (from + bytes - begin) / page * page, MADV_HUGEPAGE);
#endif
}

template <class T>
void bind(nb::module_& m, const std::string& name) {
    const auto define = [&](const char* kernel, auto function) {
        m.def((std::string(kernel) + "_" + name).c_str(), function, nb::call_guard<nb::gil_scoped_release>());
    };
    define("exact", &exact<T>);
    define("exact_backward", &exact_backward<T>);
    define("consmax", &consmax<T>);
    define("consmax_backward", &consmax_backward<T>);
    define("exaq", &exaq<T>);
    define("exaq_packed", &exaq_packed<T>);
    define("topk", &topk<T>);
}

}  // namespace

void bind_rows(nb::module_& m) {
    nb::class_<Layout>(m, "Layout")
        .def(nb::init<std::array<int64_t, outer>, std::array<int64_t, outer>, std::array<int64_t, outer>,
                      std::array<int64_t, outer>, int64_t, int64_t, bool, bool>());
    m.def("huge_pages", &huge_pages);
    bind<float>(m, "float32");
    bind<bfloat16>(m, "bfloat16");
}
