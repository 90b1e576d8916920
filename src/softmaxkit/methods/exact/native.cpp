// Exact-softmax integer kernel for a small float: a table of exponentials in multiples of its smallest step, indexed by
// the rounded distance from the maximum; their exact sum; a reciprocal.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "integer_arithmetic.hpp"
#include "integer_rows.hpp"
#include "registry.hpp"

namespace softmaxkit {

// Exponentials, indexed by distance from the maximum: 0, then all values of the format from `smallest` to `farthest`.
struct Exponentials {
    int mantissa_bits;
    double smallest, farthest;    // at and beyond `farthest` the exponential is 0
    const int32_t* values;        // multiples of the format's smallest step
    const int32_t* significands;  // the same as significand * 2^-(mantissa bits + 1 + shift)
    const int32_t* shifts;

    // The table index of a distance, rounded to the format.
    int32_t place(double distance) const {
        return std::max(rounded(distance < farthest ? distance : farthest) - rounded(smallest) + 1, 0);
    }

private:
    int32_t rounded(double value) const {
        const int dropped = std::numeric_limits<double>::digits - 1 - mantissa_bits;
        return static_cast<int32_t>(round_bits<double, uint64_t>(value, mantissa_bits) >> dropped);
    }
};

struct IntegerExact {
    Exponentials exponentials;
    float largest;        // of the format
    int64_t slice_width;  // of the online schedule; 0 for three-pass
    Reciprocal reciprocal;
};

// `Product` represents the product of two significands of the format exactly.
template <class Product>
class IntegerExactRow {
public:
    IntegerExactRow(const IntegerExact& tables, int64_t count) : tables_(tables), codes_(count), powers_(count) {}

    void operator()(const float* scores, bool invalid, int64_t keys, float* __restrict to, int64_t) {
        if (invalid) return fill_invalid(Scores<float, false>{scores, nullptr}, to, keys);
        const int32_t maximum = encode(scores, padded(keys));
        if (maximum == masked) return fill_zero(to, keys);
        const int64_t online = tables_.slice_width > 0 ? online_sum(keys) : 0;
        const int64_t sum = powers_of(0, padded(keys), maximum);
        const auto [mantissa, exponent] = tables_.reciprocal(tables_.slice_width > 0 ? online : sum);
        const int bits = tables_.exponentials.mantissa_bits;
        const Product scale = static_cast<Product>(std::ldexp(static_cast<double>(mantissa), -(bits + 1 + exponent)));
        const Product smallest = static_cast<Product>(tables_.exponentials.smallest);
        for (int64_t key = 0; key < keys; ++key) {
            const Product value = round_mantissa(static_cast<Product>(powers_[key]) * scale, bits);
            to[key] = static_cast<float>(value < smallest ? Product(0) : value);
        }
    }

private:
    // Map floats to integers that order the same way, and back.
    static int32_t ordered(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
    static float real(int32_t code) { return std::bit_cast<float>(ordered(code)); }
    static constexpr int32_t masked = static_cast<int32_t>(0xff800000) ^ 0x7fffffff;  // code of -infinity

    int32_t encode(const float* __restrict scores, int64_t count) {
        int32_t* __restrict codes = codes_.data();
        const float smallest = static_cast<float>(tables_.exponentials.smallest), largest = tables_.largest;
        const int bits = tables_.exponentials.mantissa_bits;
        int32_t maximum = masked;
        for (int64_t key = 0; key < count; ++key) {
            float value = scores[key] < largest ? scores[key] : largest;
            value = round_mantissa(value > -largest ? value : -largest, bits);
            value = std::abs(value) < smallest ? 0.0f : value;
            const int32_t code = ordered(std::bit_cast<int32_t>(value));
            codes[key] = scores[key] == -infinity ? masked : code;
            maximum = std::max(maximum, codes[key]);
        }
        return maximum;
    }

    int64_t powers_of(int64_t first, int64_t count, int32_t maximum) {
        const int32_t* __restrict codes = codes_.data() + first;
        int32_t* __restrict powers = powers_.data() + first;
        const Exponentials exponentials = tables_.exponentials;
        const double highest = real(maximum);
        for (int64_t key = 0; key < count; ++key) {
            powers[key] = exponentials.place(highest - static_cast<double>(real(codes[key])));
        }
        return look_up(exponentials.values, powers, count);
    }

    int64_t online_sum(int64_t keys) {
        const Exponentials exponentials = tables_.exponentials;
        int64_t sum = 0;
        int32_t maximum = masked;
        for (int64_t first = 0; first < keys; first += tables_.slice_width) {
            const int64_t count = std::min(tables_.slice_width, keys - first);
            const int32_t local = highest_of(codes_.data() + first, count, masked);
            if (local == masked) continue;
            const int32_t risen = std::max(maximum, local);
            const double rise = static_cast<double>(real(risen)) - static_cast<double>(real(maximum));
            const int32_t place = exponentials.place(rise);
            const RoundingShift<int64_t> rescale(exponentials.mantissa_bits + 1 + exponentials.shifts[place], true);
            sum = exponentials.values[place] == 0 ? 0 : rescale(sum * exponentials.significands[place]);
            sum += powers_of(first, count, risen);
            maximum = risen;
        }
        return sum;
    }

    const IntegerExact& tables_;
    std::vector<int32_t> codes_, powers_;
};

namespace {

void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads, const IntegerExact& tables) {
    const bool narrow = 2 * (tables.exponentials.mantissa_bits + 1) <= std::numeric_limits<float>::digits;
    if (narrow) {
        run_integer_rows<IntegerExactRow<float>>(from, to, mask, layout, threads, tables);
    } else {
        run_integer_rows<IntegerExactRow<double>>(from, to, mask, layout, threads, tables);
    }
}

const Registration registration([](nanobind::module_& m) {
    nanobind::class_<IntegerExact>(m, "IntegerExact")
        .def("__init__", [](IntegerExact* self, int mantissa_bits, double smallest, double farthest, double largest,
                            uintptr_t values, uintptr_t significands, uintptr_t shifts, int64_t slice_width,
                            const Reciprocal& reciprocal) {
            new (self) IntegerExact{{mantissa_bits, smallest, farthest, pointer<int32_t>(values),
                                     pointer<int32_t>(significands), pointer<int32_t>(shifts)},
                                    static_cast<float>(largest), slice_width, reciprocal};
        });
    m.def("integer_exact_float32", &run, nanobind::call_guard<nanobind::gil_scoped_release>());
});

}  // namespace

}  // namespace softmaxkit
