// Python bindings of the clamped exponential. Offsets are float32, one for all heads or one per head.
#include "exponential.hpp"

#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

// The parameters of all heads.
struct Heads {
    Offsets offsets;
    float highest, log2_base;

    Exponential of(const Place& place) const { return {offsets.at(place), highest, log2_base}; }
};

template <class T>
void exponential(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, uintptr_t offsets,
                 bool per_head, float highest, float log2_base) {
    const Heads heads{{reinterpret_cast<const float*>(offsets), per_head}, highest, log2_base};
    const auto row = [=](const auto& scores, auto result, int64_t keys, const Place& place) {
        exponential_row(scores, result, keys, heads.of(place));
    };
    run_rows<T>(from, to, mask, layout, threads, row);
}

// `gradient` has the layout of the result; `sums`, float32, receives the sum of each row of the scores' gradient.
template <class T>
void exponential_backward(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
                          uintptr_t offsets, bool per_head, float highest, float log2_base, uintptr_t gradient,
                          uintptr_t sums) {
    const Heads heads{{reinterpret_cast<const float*>(offsets), per_head}, highest, log2_base};
    const auto row = [=](const auto& scores, T* result, int64_t keys, const Place& place) {
        const double sum = exponential_backward_row(scores, reinterpret_cast<const T*>(gradient) + place.to, result,
                                                    keys, heads.of(place));
        reinterpret_cast<float*>(sums)[place.row] = static_cast<float>(sum);
    };
    run_rows<T, false>(from, to, mask, layout, threads, row);
}

template <class T>
void bind(nanobind::module_& m, const char* type) {
    define(m, "exponential", type, &exponential<T>);
    define(m, "exponential_backward", type, &exponential_backward<T>);
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { bind<T>(m, type); });
});

}  // namespace

}  // namespace softmaxkit
