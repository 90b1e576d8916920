// Python bindings of softmax. They receive addresses and a layout, and write the result to an address; the caller in
// Python checks the arguments.
#include "softmax.hpp"

#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

template <class T>
void softmax(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, float log2_base) {
    run_rows<T>(from, to, mask, layout, threads, SoftmaxRows<T>(layout.keys, log2_base));
}

template <class T>
void softmax_backward(uintptr_t probabilities, uintptr_t gradient, uintptr_t to, int64_t rows, int64_t keys,
                      int threads, float log_base) {
    parallel_for(rows, least_rows(keys), threads, [=](int64_t begin, int64_t end) {
        for (int64_t at = begin * keys; at < end * keys; at += keys) {
            softmax_backward_row(reinterpret_cast<const T*>(probabilities) + at,
                                 reinterpret_cast<const T*>(gradient) + at, reinterpret_cast<T*>(to) + at, keys,
                                 log_base);
        }
    });
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "softmax", type, &softmax<T>);
    define(m, "softmax_backward", type, &softmax_backward<T>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
