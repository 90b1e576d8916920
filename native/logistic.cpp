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

// `sums`, float32, receives the sum of each row of the scores' gradient.
template <class T>
void logistic_backward(uintptr_t probabilities, uintptr_t gradient, uintptr_t to, uintptr_t sums, int64_t rows,
                      int64_t keys, int threads) {
    parallel_for(rows, least_rows(keys), threads, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t at = row * keys;
            const double sum =
                logistic_backward_row(reinterpret_cast<const T*>(probabilities) + at,
                                     reinterpret_cast<const T*>(gradient) + at, reinterpret_cast<T*>(to) + at, keys);
            reinterpret_cast<float*>(sums)[row] = static_cast<float>(sum);
        }
    });
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "logistic", type, &logistic_of<T>);
    define(m, "logistic_backward", type, &logistic_backward<T>);
}

const Registration registration([](nanobind::module_& m) {
    bind<float>(m, "float32");
    bind<bfloat16>(m, "bfloat16");
});

}  // namespace

}  // namespace softmaxkit
