// std::experimental::simd, or where the standard library lacks it (libc++), what the kernels use of it, with the same
// names, on the compiler's own vectors.
#pragma once

#include <version>

#if defined(__GLIBCXX__)

#include <experimental/simd>

namespace softmaxkit {

namespace stdx = std::experimental;

}  // namespace softmaxkit

#else

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "inline.hpp"

namespace softmaxkit::stdx {

#if defined(__AVX2__)
constexpr size_t bytes = 32;
#else
constexpr size_t bytes = 16;
#endif

struct element_aligned_tag {};
struct vector_aligned_tag {};
constexpr element_aligned_tag element_aligned{};
constexpr vector_aligned_tag vector_aligned{};

// Lanes are 0 or -1.
template <class T, size_t lanes>
struct simd_mask {
    using Raw [[gnu::vector_size(lanes * 4)]] = int32_t;
    Raw raw;

    SOFTMAXKIT_INLINE explicit simd_mask(bool value) : raw(Raw{} - int32_t{value}) {}
    SOFTMAXKIT_INLINE explicit simd_mask(Raw of) : raw(of) {}
    SOFTMAXKIT_INLINE friend simd_mask operator&&(simd_mask one, simd_mask other) {
        return simd_mask(one.raw & other.raw);
    }
    SOFTMAXKIT_INLINE simd_mask operator!() const { return simd_mask(~raw); }
};

template <class T, size_t lanes>
struct simd {
    using Raw [[gnu::vector_size(lanes * sizeof(T))]] = T;
    using mask_type = simd_mask<T, lanes>;
    Raw raw;

    static constexpr size_t size() { return lanes; }

    simd() = default;
    template <class U>
        requires std::is_arithmetic_v<U>
    SOFTMAXKIT_INLINE simd(U value) : raw(Raw{} + static_cast<T>(value)) {}
    template <class V>
        requires(!std::is_class_v<V> && !std::is_arithmetic_v<V> && !std::is_pointer_v<V> && sizeof(V) == sizeof(Raw))
    SOFTMAXKIT_INLINE explicit simd(V vector) : raw(std::bit_cast<Raw>(vector)) {}
    template <class Aligned>
    SOFTMAXKIT_INLINE simd(const T* from, Aligned) {
        std::memcpy(&raw, from, sizeof raw);
    }
    template <class Generator>
        requires std::is_invocable_v<Generator, std::integral_constant<size_t, 0>>
    SOFTMAXKIT_INLINE explicit simd(Generator&& generate) {
        [&]<size_t... lane>(std::index_sequence<lane...>) {
            raw = Raw{static_cast<T>(generate(std::integral_constant<size_t, lane>{}))...};
        }(std::make_index_sequence<lanes>{});
    }

    template <class V>
        requires(!std::is_class_v<V> && !std::is_arithmetic_v<V> && sizeof(V) == sizeof(Raw))
    SOFTMAXKIT_INLINE explicit operator V() const {
        return std::bit_cast<V>(raw);
    }
    template <class Aligned>
    SOFTMAXKIT_INLINE void copy_to(T* to, Aligned) const {
        std::memcpy(to, &raw, sizeof raw);
    }
    SOFTMAXKIT_INLINE T operator[](size_t lane) const { return raw[lane]; }
    SOFTMAXKIT_INLINE simd operator-() const { return of(-raw); }

#define SOFTMAXKIT_OPERATOR(symbol)                                                                    \
    SOFTMAXKIT_INLINE friend simd operator symbol(const simd & one, const simd & other) {              \
        return of(one.raw symbol other.raw);                                                           \
    }                                                                                                  \
    SOFTMAXKIT_INLINE simd& operator symbol##=(const simd & other) { return *this = *this symbol other; }
    SOFTMAXKIT_OPERATOR(+)
    SOFTMAXKIT_OPERATOR(-)
    SOFTMAXKIT_OPERATOR(*)
    SOFTMAXKIT_OPERATOR(/)
    SOFTMAXKIT_OPERATOR(&)
    SOFTMAXKIT_OPERATOR(|)
    SOFTMAXKIT_OPERATOR(<<)
    SOFTMAXKIT_OPERATOR(>>)
#undef SOFTMAXKIT_OPERATOR

#define SOFTMAXKIT_COMPARISON(symbol)                                                                  \
    SOFTMAXKIT_INLINE friend mask_type operator symbol(const simd & one, const simd & other) {         \
        return mask_type(std::bit_cast<typename mask_type::Raw>(one.raw symbol other.raw));            \
    }
    SOFTMAXKIT_COMPARISON(<)
    SOFTMAXKIT_COMPARISON(<=)
    SOFTMAXKIT_COMPARISON(>)
    SOFTMAXKIT_COMPARISON(>=)
    SOFTMAXKIT_COMPARISON(==)
    SOFTMAXKIT_COMPARISON(!=)
#undef SOFTMAXKIT_COMPARISON

private:
    SOFTMAXKIT_INLINE static simd of(Raw raw) {
        simd result;
        result.raw = raw;
        return result;
    }
};

template <class T>
using native_simd = simd<T, bytes / sizeof(T)>;
template <class T, class V>
using rebind_simd_t = simd<T, V::size()>;

// Replaces lanes by assignment.
template <class V>
struct where_expression {
    typename V::mask_type mask;
    V& value;

    SOFTMAXKIT_INLINE void operator=(const V& with) && {
        using Bits = typename V::mask_type::Raw;
        const Bits kept = std::bit_cast<Bits>(value.raw) & ~mask.raw;
        value.raw = std::bit_cast<typename V::Raw>(kept | (std::bit_cast<Bits>(with.raw) & mask.raw));
    }
};

template <class V>
SOFTMAXKIT_INLINE where_expression<V> where(const typename V::mask_type& mask, V& value) {
    return {mask, value};
}

template <class V, class T, size_t lanes>
SOFTMAXKIT_INLINE V static_simd_cast(const simd<T, lanes>& value) {
    V result;
    result.raw = __builtin_convertvector(value.raw, typename V::Raw);
    return result;
}

// Combines all lanes, those of the two halves first.
template <class T, size_t lanes, class Combine>
SOFTMAXKIT_INLINE T combined(const simd<T, lanes>& value, const Combine& combine) {
    T parts[lanes];
    value.copy_to(parts, element_aligned);
    for (size_t half = lanes / 2; half > 0; half /= 2) {
        for (size_t lane = 0; lane < half; ++lane) parts[lane] = combine(parts[lane], parts[lane + half]);
    }
    return parts[0];
}

template <class T, size_t lanes>
SOFTMAXKIT_INLINE T reduce(const simd<T, lanes>& value) {
    return combined(value, [](T one, T other) { return one + other; });
}
template <class T, size_t lanes>
SOFTMAXKIT_INLINE T hmax(const simd<T, lanes>& value) {
    return combined(value, [](T one, T other) { return one < other ? other : one; });
}

template <class T, size_t lanes>
SOFTMAXKIT_INLINE bool any_of(const simd_mask<T, lanes>& mask) {
    using Parts = simd<int32_t, lanes>;
    return combined(Parts(mask.raw), [](int32_t one, int32_t other) { return one | other; }) != 0;
}
template <class T, size_t lanes>
SOFTMAXKIT_INLINE bool all_of(const simd_mask<T, lanes>& mask) {
    return !any_of(!mask);
}

template <class T, size_t lanes>
SOFTMAXKIT_INLINE simd<T, lanes> max(simd<T, lanes> one, const std::type_identity_t<simd<T, lanes>>& other) {
    where(one < other, one) = other;
    return one;
}
template <class T, size_t lanes>
SOFTMAXKIT_INLINE simd<T, lanes> min(simd<T, lanes> one, const std::type_identity_t<simd<T, lanes>>& other) {
    where(other < one, one) = other;
    return one;
}
template <class T, size_t lanes>
SOFTMAXKIT_INLINE simd<T, lanes> clamp(const simd<T, lanes>& value, const simd<T, lanes>& low,
                                       const simd<T, lanes>& high) {
    return min(max(value, low), high);
}

template <class T, size_t lanes>
SOFTMAXKIT_INLINE simd<T, lanes> nearbyint(const simd<T, lanes>& value) {
    return simd<T, lanes>([&](auto lane) { return std::nearbyint(value[lane]); });
}

}  // namespace softmaxkit::stdx

#endif
