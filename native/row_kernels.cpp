// Softmax of rows: pointers and a layout in, results where the caller wants them. Python checks what is given.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>
#include <sys/mman.h>
#include <unistd.h>

#include "consmax.hpp"
#include "exact.hpp"
#include "exaq.hpp"
#include "modules.hpp"
#include "pool.hpp"
#include "rows.hpp"
#include "topk.hpp"

namespace nb = nanobind;

namespace {

constexpr int64_t least_work = 1 << 14;  // elements below which another thread takes longer to wake than to help

int64_t least_rows(int64_t keys) { return std::max<int64_t>(1, least_work / std::max<int64_t>(keys, 1)); }

// Goes through all rows: row(scores, to, keys, head).
template <class T, class Row>
void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const Row& row) {
    parallel_for(layout.rows(), least_rows(layout.keys), threads, [&](int64_t begin, int64_t end) {
        each_row<T>(from, to, mask, layout, begin, end,
                    [&](const T* scores, T* result, const uint8_t* bits, int64_t keys, const Place& place) {
                        if (bits != nullptr) {
                            row(Scores<T, true>{scores, bits}, result, keys, place.head);
                        } else {
                            row(Scores<T, false>{scores, nullptr}, result, keys, place.head);
                        }
                    });
    });
}

template <class T>
void exact(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads) {
    run<T>(from, to, mask, layout, threads,
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
    run<T>(from, to, mask, layout, threads, [=](const auto& scores, T* result, int64_t keys, int64_t head) {
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

template <class T>
void exaq(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float clip,
          const std::vector<float>& exponentials) {
    const Levels levels(clip, exponentials);
    const auto all = [&](auto chosen) {
        run<T>(from, to, mask, layout, threads, [&](const auto& scores, T* result, int64_t keys, int64_t) {
            exaq_row<chosen>(scores, result, keys, levels);
        });
    };
    if (levels.count == 4) all(std::integral_constant<int, 4>{});
    if (levels.count == 8) all(std::integral_constant<int, 8>{});
    if (levels.count == 16) all(std::integral_constant<int, 16>{});
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
