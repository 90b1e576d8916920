// Attention, one stripe of queries at a time, with products of integers or of bfloat16: keys and values are packed, and
// the expected error of the products is estimated.
#pragma once

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <nanobind/nanobind.h>

#include "attention_arguments.hpp"
#include "pool.hpp"

namespace softmaxkit {

// Attention of a kind of stripe. Its `Operands` are `Arguments` that `prepare` memory for the keys and values of all
// key heads, `pack` those of one, say by `packed` what was found, and by `score_error` the expected error of the scores
// of every `stride`-th query of a head, NaN if one is not finite.
template <class Stripe>
class Attention {
public:
    using Operands = typename Stripe::Operands;

    // Packs keys and values.
    Attention(Operands&& of, int threads) : of_(std::move(of)), threads_(threads) {
        of_.prepare();
        parallel_for(of_.shape.batch * of_.shape.key_heads, 1, threads_, [this](int64_t first, int64_t last) {
            for (int64_t head = first; head < last; ++head) of_.pack(head);
        });
    }

    Attention(const Attention&) = delete;

    // What is expected before anything is multiplied, from every `stride`-th query of a head.
    Precision precision(int64_t stride) const {
        Precision expected = of_.packed();
        if (!expected.finite) return expected;
        std::vector<double> errors(of_.shape.batch * of_.shape.heads);
        parallel_for(static_cast<int64_t>(errors.size()), 1, threads_, [&](int64_t first, int64_t last) {
            for (int64_t index = first; index < last; ++index) {
                errors[index] = of_.score_error(index / of_.shape.heads, index % of_.shape.heads, stride);
            }
        });
        expected.add_scores(errors);
        return expected;
    }

    // Computes the results, which are invalid if something is not finite. The error of the scores is that of all
    // queries.
    Precision run() {
        const Shape& shape = of_.shape;
        const int64_t rows = Stripe::rows_for(shape.seen(shape.queries - 1)), heads = shape.batch * shape.heads;
        const int64_t stripes = (shape.queries + rows - 1) / rows;
        std::vector<double> noise(heads * stripes);
        parallel_for(heads * stripes, 1, threads_, [&](int64_t first, int64_t last) {
#if defined(SOFTMAXKIT_TILES)
            const tiles::Session session;
#endif
            Stripe stripe(of_, rows);
            for (int64_t index = first; index < last; ++index) {
                const int64_t head = index / stripes, begin = index % stripes * rows;
                const int64_t end = std::min(begin + rows, shape.queries);
                noise[index] = stripe.run(head / shape.heads, head % shape.heads, begin, end);
            }
        });
        std::vector<double> errors(heads);
        for (int64_t head = 0; head < heads; ++head) {
            const auto first = noise.begin() + head * stripes;
            errors[head] = std::sqrt(std::accumulate(first, first + stripes, 0.0) / static_cast<double>(shape.queries));
        }
        Precision reached;
        reached.add_scores(errors);
        return reached;
    }

private:
    Operands of_;
    const int threads_;
};

// Arguments from addresses.
template <class T>
Arguments<T> arguments(const Shape& shape, double scale, uintptr_t query, uintptr_t key, uintptr_t value,
                       uintptr_t mask, uintptr_t result) {
    return {shape,
            scale,
            reinterpret_cast<const T*>(query),
            reinterpret_cast<const T*>(key),
            reinterpret_cast<const T*>(value),
            reinterpret_cast<const uint8_t*>(mask),
            reinterpret_cast<T*>(result)};
}

// Binds an attention under a name; `construct` has the signature of its constructor in Python.
template <class Stripe>
void bind_attention(nanobind::module_& m, const char* name, auto construct) {
    const nanobind::call_guard<nanobind::gil_scoped_release> guard;
    nanobind::class_<Attention<Stripe>>(m, name)
        .def("__init__", construct, guard)
        .def("precision", &Attention<Stripe>::precision, guard)
        .def("run", &Attention<Stripe>::run, guard);
}

}  // namespace softmaxkit
