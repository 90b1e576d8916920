// Python bindings of softmax and top-k in one pass.
#include "topk.hpp"

#include "registry.hpp"
#include "row_runner.hpp"

namespace softmaxkit {

namespace {

// `is_done` receives for each row whether this kernel could process it, see `topk_row`.
template <class T>
void topk(uintptr_t logits, uintptr_t values, uintptr_t indices, uintptr_t is_done, int64_t rows, int64_t size,
          int64_t k, int threads) {
    parallel_for(rows, least_rows(size), threads, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            reinterpret_cast<bool*>(is_done)[row] =
                topk_row(reinterpret_cast<const T*>(logits) + row * size, reinterpret_cast<T*>(values) + row * k,
                         reinterpret_cast<int64_t*>(indices) + row * k, size, k);
        }
    });
}

const Registration registration([](nanobind::module_& m) {
    for_all_types([&]<class T>(T, const char* type) { define(m, "topk", type, &topk<T>); });
});

}  // namespace

}  // namespace softmaxkit
