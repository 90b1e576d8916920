// Golden's integers for rows of scores, decoded: golden's tables and a layout in, results where the caller wants them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "integer_consmax.hpp"
#include "integer_exact.hpp"
#include "integer_exaq.hpp"
#include "integer_softermax.hpp"
#include "modules.hpp"

namespace nb = nanobind;

namespace {

template <class T>
const T* pointer(uintptr_t address) {
    return reinterpret_cast<const T*>(address);
}

// Runs rows of one kind, whose scratch is for so many keys.
template <class Row, class Tables>
void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const Tables& tables) {
    each_integer_row(from, to, mask, layout, threads, [&](int64_t keys) { return Row(tables, keys); });
}

void exact(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
           const IntegerExact& tables) {
    const bool narrow = 2 * (tables.exponentials.mantissa_bits + 1) <= std::numeric_limits<float>::digits;
    (narrow ? run<IntegerExactRow<float>, IntegerExact> : run<IntegerExactRow<double>, IntegerExact>)(
        from, to, mask, layout, threads, tables);
}

void consmax(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
             const IntegerConsmax& tables) {
    run<IntegerConsmaxRow>(from, to, mask, layout, threads, tables);
}

void softermax(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
               const IntegerSoftermax& tables, bool narrow) {
    (narrow ? run<IntegerSoftermaxRow<uint32_t>, IntegerSoftermax>
            : run<IntegerSoftermaxRow<uint64_t>, IntegerSoftermax>)(from, to, mask, layout, threads, tables);
}

void exaq(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const IntegerExaq& tables) {
    const size_t levels = tables.exponentials.size();
    if (levels == 4) run<IntegerExaqRow<4>>(from, to, mask, layout, threads, tables);
    if (levels == 8) run<IntegerExaqRow<8>>(from, to, mask, layout, threads, tables);
    if (levels == 16) run<IntegerExaqRow<16>>(from, to, mask, layout, threads, tables);
}

}  // namespace

void bind_integers(nb::module_& m) {
    nb::class_<Reciprocal>(m, "Reciprocal")
        .def(nb::init<std::vector<int64_t>, std::vector<int64_t>, int, int, int, bool>());
    nb::class_<IntegerExact>(m, "IntegerExact")
        .def("__init__", [](IntegerExact* made, int mantissa_bits, double smallest, double farthest, double largest,
                            uintptr_t values, uintptr_t significands, uintptr_t shifts, int64_t slice_width,
                            const Reciprocal& reciprocal) {
            new (made) IntegerExact{{mantissa_bits, smallest, farthest, pointer<int32_t>(values),
                                     pointer<int32_t>(significands), pointer<int32_t>(shifts)},
                                    static_cast<float>(largest), slice_width, reciprocal};
        });
    nb::class_<IntegerConsmax>(m, "IntegerConsmax")
        .def("__init__", [](IntegerConsmax* made, std::vector<double> scales, int32_t lowest, int32_t highest,
                            uintptr_t probabilities) {
            new (made) IntegerConsmax{std::move(scales), lowest, highest, pointer<float>(probabilities)};
        });
    nb::class_<IntegerSoftermax>(m, "IntegerSoftermax")
        .def("__init__", [](IntegerSoftermax* made, double scale, int32_t lowest, int32_t highest, int fraction_bits,
                            bool ceil, bool nearest, uintptr_t powers, int32_t least_difference, int64_t slice_width,
                            int sum_places, int64_t sum_limit, const Reciprocal& reciprocal, int64_t places,
                            int64_t limit, double step) {
            new (made) IntegerSoftermax{{scale, lowest, highest}, fraction_bits, ceil, nearest,
                                        pointer<int32_t>(powers), least_difference, slice_width, sum_places, sum_limit,
                                        reciprocal, places, limit, step};
        });
    nb::class_<IntegerExaq>(m, "IntegerExaq")
        .def("__init__", [](IntegerExaq* made, double scale, int32_t lowest, int32_t highest,
                            std::vector<int32_t> thresholds, std::vector<int64_t> exponentials,
                            const Reciprocal& reciprocal, int64_t places, int64_t limit, double step) {
            new (made) IntegerExaq{{scale, lowest, highest}, std::move(thresholds), std::move(exponentials),
                                   reciprocal, places, limit, step};
        });
    m.def("integer_exact_float32", &exact, nb::call_guard<nb::gil_scoped_release>());
    m.def("integer_consmax_float32", &consmax, nb::call_guard<nb::gil_scoped_release>());
    m.def("integer_softermax_float32", &softermax, nb::call_guard<nb::gil_scoped_release>());
    m.def("integer_exaq_float32", &exaq, nb::call_guard<nb::gil_scoped_release>());
}
