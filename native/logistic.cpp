// Python bindings of the logistic function. Biases are float32, one for all heads or one per head.
#include "logistic.hpp"

#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

template <class T>
void logistic_of(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, uintptr_t biases,
                bool per_head) {
    const Offsets of{reinterpret_cast<const float*>(biases), per_head};
    run_rows<T>(from, to, mask, layout, threads,
                [=](const auto& scores, auto result, int64_t keys, const Place& place) {
                    logistic_row(scores, result, keys, of.at(place));
                });
}

// `gradient` has the layout of the result; `sums`, float32, receives the sum of each row of the scores' gradient.
template <class T>
void logistic_backward(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
                       uintptr_t biases, bool per_head, uintptr_t gradient, uintptr_t sums) {
    const Offsets of{reinterpret_cast<const float*>(biases), per_head};
    const auto row = [=](const auto& scores, T* result, int64_t keys, const Place& place) {
        const double sum = logistic_backward_row(scores, reinterpret_cast<const T*>(gradient) + place.to, result, keys,
                                                 of.at(place));
        reinterpret_cast<float*>(sums)[place.row] = static_cast<float>(sum);
    };
    run_rows<T, false>(from, to, mask, layout, threads, row);
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "logistic", type, &logistic_of<T>);
    define(m, "logistic_backward", type, &logistic_backward<T>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
