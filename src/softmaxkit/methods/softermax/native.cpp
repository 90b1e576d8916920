// Softermax integer kernel: powers of two from a table, a running sum over slices, a reciprocal.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include "integer_arithmetic.hpp"
#include "integer_rows.hpp"
#include "registry.hpp"

namespace softmaxkit {

struct IntegerSoftermax {
    ScoreCodes codes;
    int fraction_bits;      // of the input
    bool ceil, nearest;     // rounding of integer maxima, and of everything else
    const int32_t* powers;  // 0 for masked scores, then by code minus integer maximum, from `least_difference` up
    int32_t least_difference;
    int64_t slice_width;
    int sum_places;  // fraction bits of the powers minus those of their sum
    int64_t sum_limit;
    Reciprocal reciprocal;
    int64_t places;  // fraction bits of a product minus those of the output, without the reciprocal's exponent
    int64_t limit;   // largest output code
    double step;     // of the output
};

// `Product` is unsigned and wide enough for power * mantissa with at least four bits to spare.
template <class Product>
class IntegerSoftermaxRow {
public:
    IntegerSoftermaxRow(const IntegerSoftermax& tables, int64_t count)
        : tables_(tables), width_(std::min(tables.slice_width, count)), codes_(count), powers_(count), wholes_(count) {}

    void operator()(const float* scores, bool invalid, int64_t keys, float* to, int64_t) {
        if (invalid) return fill_invalid(Scores<float, false>{scores, nullptr}, to, keys);
        if (tables_.codes.encode(scores, codes_.data(), padded(keys)) == masked_code) return fill_zero(to, keys);
        int64_t sum = 0, whole = tables_.codes.lowest >> tables_.fraction_bits;
        for (int64_t first = 0, slice = 0; first < keys; first += width_, ++slice) {
            const int64_t count = std::min(width_, keys - first);
            const int32_t highest = highest_of(codes_.data() + first, count, masked_code);
            const int64_t local = highest == masked_code ? whole : whole_of(highest);
            const int64_t added = powers_of(first, count, local);
            const int64_t risen = std::max(whole, local);
            sum = RoundingShift<int64_t>(risen - whole, tables_.nearest)(sum) +
                  RoundingShift<int64_t>(risen - local + tables_.sum_places, tables_.nearest)(added);
            sum = std::min(sum, tables_.sum_limit);
            whole = risen;
            wholes_[slice] = static_cast<int32_t>(local);
        }
        const auto [mantissa, exponent] = tables_.reciprocal(sum);
        for (int64_t first = 0, slice = 0; first < keys; first += width_, ++slice) {
            normalise(first, std::min(width_, keys - first), whole - wholes_[slice], mantissa, exponent, to);
        }
    }

private:
    int64_t whole_of(int32_t code) const {
        const int bits = tables_.fraction_bits;
        return std::min(tables_.ceil ? -(-code >> bits) : code >> bits, tables_.codes.highest >> bits);
    }

    int64_t powers_of(int64_t first, int64_t count, int64_t whole) {
        const int32_t* __restrict codes = codes_.data() + first;
        int32_t* __restrict powers = powers_.data() + first;
        const int32_t start = static_cast<int32_t>(whole << tables_.fraction_bits) + tables_.least_difference - 1;
        for (int64_t key = 0; key < count; ++key) powers[key] = std::max(codes[key] - start, 0);
        return look_up(tables_.powers, powers, count);
    }

    void normalise(int64_t first, int64_t count, int64_t places, int64_t mantissa, int exponent,
                   float* __restrict to) const {
        const int32_t* __restrict powers = powers_.data() + first;
        const RoundingShift<uint32_t> lower(places, tables_.nearest);
        const RoundingShift<Product> shift(exponent + tables_.places, tables_.nearest);
        const uint32_t factor = static_cast<uint32_t>(mantissa);
        const Product limit = static_cast<Product>(tables_.limit);
        const float step = static_cast<float>(tables_.step);
        for (int64_t key = 0; key < count; ++key) {
            const Product product = static_cast<Product>(lower(static_cast<uint32_t>(powers[key]))) * factor;
            const Product code = std::min(shift(product), limit);
            to[first + key] = static_cast<float>(static_cast<std::make_signed_t<Product>>(code)) * step;
        }
    }

    const IntegerSoftermax& tables_;
    int64_t width_;
    std::vector<int32_t> codes_, powers_, wholes_;
};

namespace {

void run(uintptr_t from, uintptr_t to, uintptr_t mask, const Layout& layout, int threads,
         const IntegerSoftermax& tables, bool narrow) {
    if (narrow) {
        run_integer_rows<IntegerSoftermaxRow<uint32_t>>(from, to, mask, layout, threads, tables);
    } else {
        run_integer_rows<IntegerSoftermaxRow<uint64_t>>(from, to, mask, layout, threads, tables);
    }
}

const Registration registration([](nanobind::module_& m) {
    nanobind::class_<IntegerSoftermax>(m, "IntegerSoftermax")
        .def("__init__", [](IntegerSoftermax* self, double scale, int32_t lowest, int32_t highest, int fraction_bits,
                            bool ceil, bool nearest, uintptr_t powers, int32_t least_difference, int64_t slice_width,
                            int sum_places, int64_t sum_limit, const Reciprocal& reciprocal, int64_t places,
                            int64_t limit, double step) {
            new (self) IntegerSoftermax{{scale, lowest, highest}, fraction_bits, ceil, nearest,
                                        pointer<int32_t>(powers), least_difference, slice_width, sum_places, sum_limit,
                                        reciprocal, places, limit, step};
        });
    m.def("integer_softermax_float32", &run, nanobind::call_guard<nanobind::gil_scoped_release>());
});

}  // namespace

}  // namespace softmaxkit
