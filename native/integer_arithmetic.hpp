// The arithmetic of the golden model: division by powers of two with a single rounding, and the reciprocal.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace softmaxkit {

// Divides non-negative integers by 2^places, rounding to nearest with ties to even, or down; negative places multiply.
// Values, also after multiplication, must leave the four top bits of `Int` clear, so a shift by `most` places gives 0.
template <class Int>
class RoundingShift {
public:
    RoundingShift(int64_t places, bool nearest)
        : left_(static_cast<int>(std::max<int64_t>(-places, 0))),
          right_(static_cast<int>(std::clamp<int64_t>(places, 0, most))),
          below_half_(nearest && right_ > 0 ? (Int(1) << (right_ - 1)) - 1 : Int(0)),
          odd_(nearest && right_ > 0 ? 1 : 0) {}

    // Adding half less one, plus one if the quotient is odd, carries exactly when the quotient must be rounded up.
    Int operator()(Int value) const {
        value <<= left_;
        return (value + below_half_ + ((value >> right_) & odd_)) >> right_;
    }

private:
    static constexpr int most = 8 * sizeof(Int) - 3;
    int left_, right_;
    Int below_half_, odd_;
};

// Rounds to `mantissa_bits` bits after the leading one, to nearest with ties to even.
template <class Real, class Bits>
inline Bits round_bits(Real value, int mantissa_bits) {
    const int dropped = std::numeric_limits<Real>::digits - 1 - mantissa_bits;
    const Bits bits = std::bit_cast<Bits>(value);
    return (bits + ((Bits(1) << (dropped - 1)) - 1) + ((bits >> dropped) & 1)) >> dropped << dropped;
}

inline float round_mantissa(float value, int bits) {
    return std::bit_cast<float>(round_bits<float, uint32_t>(value, bits));
}

inline double round_mantissa(double value, int bits) {
    return std::bit_cast<double>(round_bits<double, uint64_t>(value, bits));
}

// Piecewise-linear 1/d, as `softmaxkit.tables.Reciprocal`: approximately mantissa * 2^-(mantissa bits + exponent).
class Reciprocal {
public:
    struct Value {
        int64_t mantissa;
        int exponent;
    };

    Reciprocal(std::vector<int64_t> offsets, std::vector<int64_t> slopes, int input_bits, int rest_bits, int guard_bits,
               bool nearest)
        : offsets_(std::move(offsets)), slopes_(std::move(slopes)), input_bits_(input_bits), rest_bits_(rest_bits),
          round_(rest_bits + guard_bits, nearest) {}

    Value operator()(int64_t sum) const {
        const int exponent = 63 - std::countl_zero(static_cast<uint64_t>(std::max<int64_t>(sum, 1)));
        const int64_t normalised = exponent > input_bits_ ? sum >> (exponent - input_bits_)
                                                          : std::max<int64_t>(sum, 1) << (input_bits_ - exponent);
        const int64_t fraction = normalised - (int64_t(1) << input_bits_);
        const int64_t segment = fraction >> rest_bits_, rest = fraction - (segment << rest_bits_);
        return {round_((offsets_[segment] << rest_bits_) + slopes_[segment] * rest), exponent};
    }

private:
    std::vector<int64_t> offsets_, slopes_;
    int input_bits_, rest_bits_;
    RoundingShift<int64_t> round_;
};

}  // namespace softmaxkit
