// Python bindings of softmax attention of many queries, by AMX tiles or products of 16-bit integers, which float16 always
// takes: bfloat16, the tiles' format, has fewer digits. They receive addresses and a shape, and write the result to an
// address; the caller in Python checks the arguments.
#include <nanobind/nanobind.h>

#include "attention.hpp"
#include "registry.hpp"
#include "word_stripe.hpp"
#if defined(SOFTMAXKIT_TILES)
#include "tile_stripe.hpp"
#endif

namespace softmaxkit {

namespace {

#if defined(SOFTMAXKIT_TILES)
template <class T>
using Stripe = std::conditional_t<std::same_as<T, float16>, WordStripe<T>, TileStripe<T>>;
#else
template <class T>
using Stripe = WordStripe<T>;
#endif

template <class T>
void bind(nanobind::module_& m, const char* name) {
    using Of = Attention<Stripe<T>>;
    bind_attention<Stripe<T>>(
        m, name,
        [](Of* self, const Shape& shape, double scale, uintptr_t query, uintptr_t key, uintptr_t value, uintptr_t mask,
           uintptr_t result, int threads) {
            new (self) Of({arguments<T>(shape, scale, query, key, value, mask, result)}, threads);
        });
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const std::string& type) { bind<T>(m, ("SoftmaxAttention_" + type).c_str()); });
});

}  // namespace

}  // namespace softmaxkit
