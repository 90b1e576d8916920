// Softmax of rows: pointers and a layout in, results where the caller wants them. Python checks what is given.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "consmax.hpp"
#include "exact.hpp"
#include "exaq.hpp"
#include "modules.hpp"
#include "pool.hpp"
#include "rows.hpp"

namespace nb = nanobind;

namespace {

constexpr int64_t least_work = 1 << 14;  // elements below which another thread takes longer to wake than to help

// Goes through all rows: row(from, to, mask, keys, place), with what is not attended at a row's end filled with zeros.
template <class T, class Row>
void each_row(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const Row& row) {
    const auto work = [&](int64_t first, int64_t last) {
        for (int64_t index = first; index < last; ++index) {
            const Place at = place(layout, index);
            T* result = reinterpret_cast<T*>(to) + at.to;
            const uint8_t* bits = layout.masked ? reinterpret_cast<const uint8_t*>(mask) + at.mask : nullptr;
            int64_t attended = std::min(at.seen, layout.keys);
            if (bits != nullptr && layout.mask_key == 0) {  // one for all keys
                if (*bits == 0) attended = 0;
                bits = nullptr;
            }
            row(reinterpret_cast<const T*>(from) + at.from, result, bits, attended, index);
            fill_zero(result + attended, layout.keys - attended);
        }
    };
    const int64_t least = std::max<int64_t>(1, least_work / std::max<int64_t>(layout.keys, 1));
    parallel_for(layout.rows(), least, threads, work);
}

template <class T>
void exact(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads) {
    each_row<T>(from, to, mask, layout, threads,
                [](const T* scores, T* result, const uint8_t* bits, int64_t keys, int64_t) {
                    exact_row(scores, result, bits, keys);
                });
}

// `offsets` are beta + log(gamma) of each row's head: float32, by the row's index along the axis before the queries.
template <class T>
void consmax(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, uintptr_t offsets,
             bool per_head, float limit) {
    const float* of = reinterpret_cast<const float*>(offsets);
    const int64_t queries = layout.sizes[outer - 1], heads = layout.sizes[outer - 2];
    each_row<T>(from, to, mask, layout, threads,
                [=](const T* scores, T* result, const uint8_t* bits, int64_t keys, int64_t row) {
                    consmax_row(scores, result, bits, keys, of[per_head ? row / queries % heads : 0], limit);
                });
}

template <class T>
void exaq(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
          const std::vector<float>& thresholds, const std::vector<float>& exponentials) {
    Levels levels{static_cast<int>(exponentials.size()), {}, {}};
    std::copy(thresholds.begin(), thresholds.end(), levels.thresholds.begin());
    std::copy(exponentials.begin(), exponentials.end(), levels.exponentials.begin());
    const auto all = [&](auto count) {
        each_row<T>(from, to, mask, layout, threads,
                    [&](const T* scores, T* result, const uint8_t* bits, int64_t keys, int64_t) {
                        exaq_row<count>(scores, result, bits, keys, levels);
                    });
    };
    if (levels.count == 4) all(std::integral_constant<int, 4>{});
    if (levels.count == 8) all(std::integral_constant<int, 8>{});
    if (levels.count == 16) all(std::integral_constant<int, 16>{});
}

}  // namespace

void bind_rows(nb::module_& m) {
    nb::class_<Layout>(m, "Layout")
        .def(nb::init<std::array<int64_t, outer>, std::array<int64_t, outer>, std::array<int64_t, outer>,
                      std::array<int64_t, outer>, int64_t, int64_t, bool, bool>());
    m.def("exact_float32", &exact<float>, nb::call_guard<nb::gil_scoped_release>());
    m.def("exact_bfloat16", &exact<bfloat16>, nb::call_guard<nb::gil_scoped_release>());
    m.def("consmax_float32", &consmax<float>, nb::call_guard<nb::gil_scoped_release>());
    m.def("consmax_bfloat16", &consmax<bfloat16>, nb::call_guard<nb::gil_scoped_release>());
    m.def("exaq_float32", &exaq<float>, nb::call_guard<nb::gil_scoped_release>());
    m.def("exaq_bfloat16", &exaq<bfloat16>, nb::call_guard<nb::gil_scoped_release>());
}
