// Prints hashes of what an instruction set's own operations compute from the same inputs. Instruction sets whose kernels
// are right print the same lines.
#include <cstdio>
#include <string>

#include "coded_keys.hpp"
#include "coded_values.hpp"
#include "levels_packed.hpp"

namespace softmaxkit {

namespace {

uint32_t random_bits() {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 32);
}

// A random number from -1 to 1.
float random_float() { return static_cast<float>(static_cast<int32_t>(random_bits())) / 2147483648.0f; }

template <class T>
std::vector<T> random_integers(int64_t count) {
    std::vector<T> integers(count);
    for (T& integer : integers) integer = static_cast<T>(random_bits());
    return integers;
}

std::vector<float> random_floats(int64_t count) {
    std::vector<float> floats(count);
    for (float& value : floats) value = random_float();
    return floats;
}

template <class T>
void print(const std::string& name, const T* values, int64_t count) {
    uint64_t hash = 14695981039346656037u;
    const auto* bytes = reinterpret_cast<const uint8_t*>(values);
    for (size_t byte = 0; byte < count * sizeof(T); ++byte) hash = (hash ^ bytes[byte]) * 1099511628211u;
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(hash));
}

// Random codes that are summed over `count` elements, for each of the columns, in the layout of panels.hpp.
std::vector<Code> random_codes(int64_t count, int64_t columns) {
    std::vector<Code> codes(count * columns);
    for (int64_t index = 0; index < count; ++index) {
        for (int64_t column = 0; column < columns; ++column) {
            codes[(index / per_lane * columns + column) * per_lane + index % per_lane] =
                static_cast<int8_t>(random_bits());
        }
    }
    return codes;
}

// The channels are a multiple of four.
void print_scores_and_weights(int64_t channels) {
    const int64_t steps = key_steps(channels), row = panel;
    const auto queries = random_integers<uint8_t>(tile * channels);
    const auto keys = random_codes(channels, panel);
    auto start = random_integers<int32_t>(panel);
    for (int32_t& sum : start) sum >>= 8;
    Buffer<uint16_t> scores(tile * panel), highest(tile * panel);
    std::fill_n(highest.data(), tile * panel, uint16_t(0));
    const std::string name = std::to_string(channels) + " channels: ";
    for (const int shift : {0, 3, 7}) {
        score_tile(queries.data(), steps, keys.data(), start.data(), shift, scores.data(), row, highest.data());
        print(name + "scores", scores.data(), tile * panel);
        print(name + "highest", highest.data(), tile * panel);
    }
    for (int64_t index = 0; index < tile; ++index) {
        const uint64_t visible = random_bits() | static_cast<uint64_t>(random_bits()) << 32;
        hide(scores.data() + index * panel, visible, highest.data() + index * panel);
        const auto table = random_integers<uint8_t>(codes);
        const Words anchor = Words{} + static_cast<uint16_t>(random_bits());
        const Words multiplier = Words{} + static_cast<uint16_t>(random_bits() >> 1 & 0x7fff);
        Buffer<uint8_t> weights(panel);
        Sums sums = {};
        weigh<true>(scores.data() + index * panel, anchor, multiplier, table.data(), visible, weights.data(), sums);
        print(name + "summed weights", weights.data(), panel);
        int32_t sum = 0;
        for (int64_t lane = 0; lane < lanes; ++lane) sum += sums[lane];
        print(name + "their sum", &sum, 1);
        weigh<false>(scores.data() + index * panel, anchor, multiplier, table.data(), ~visible, weights.data(), sums);
        print(name + "weights", weights.data(), panel);
    }
    print(name + "hidden", scores.data(), tile * panel);
    print(name + "highest seen", highest.data(), tile * panel);
}

template <int vectors>
void print_values(int64_t keys) {
    constexpr int64_t columns = vectors * lanes;
    const int64_t plane = tile * keys;
    auto weights = random_integers<uint8_t>(2 * plane);
    const auto values = random_codes(keys, columns);
    auto totals = random_floats(tile * columns);
    for (const int planes : {1, 2}) {
        value_tile<vectors>(weights.data(), keys, plane, planes, values.data(), columns, keys / per_lane,
                            totals.data());
        const std::string name = std::to_string(keys) + " keys, " + std::to_string(vectors) + " vectors, ";
        print(name + std::to_string(planes) + " planes", totals.data(), tile * columns);
        for (int64_t byte = 0; byte < plane; ++byte) weights[byte] &= 0x7f;
    }
}

void print_bits() {
    std::vector<uint64_t> bits;
    for (int64_t count = 1; count <= panel; ++count) {
        auto booleans = random_integers<uint8_t>(count);
        for (uint8_t& boolean : booleans) boolean &= 2;
        bits.push_back(true_bits(booleans.data(), ~uint64_t{0} >> (64 - count), count));
    }
    print("bits", bits.data(), panel);
}

template <int bits>
void print_cache(int64_t channels, int64_t group) {
    constexpr int64_t tokens = 150, sequences = 2, key_heads = 2;
    const int64_t heads = group * key_heads, bytes = bits == 8 ? channels : (channels + 1) / 2;
    const int64_t groups = bits == 8 ? 1 : (channels + channels_of_step - 1) / channels_of_step;
    using Cache = Codes<bits>;
    auto from = random_integers<typename Cache::Code>(sequences * key_heads * tokens * bytes);
    if constexpr (bits == 8) std::replace(from.begin(), from.end(), int8_t(-128), int8_t(-127));
    std::vector<typename Cache::Step> steps(sequences * key_heads * groups * tokens);
    for (auto& step : steps) {
        if constexpr (bits == 8) step = random_float();
        else step = {static_cast<uint16_t>(std::bit_cast<uint32_t>(random_float()) >> 16)};
    }
    const Cache cache{from.data(), steps.data(), {key_heads * tokens * bytes, tokens * bytes, bytes},
                      {key_heads * groups * tokens, groups * tokens, tokens}, channels, tokens, nullptr, 0, 0};
    Shape shape{};
    shape.batch = sequences, shape.heads = heads, shape.key_heads = key_heads, shape.queries = 1;
    shape.query = {heads * channels, channels, channels};
    const auto queries = random_floats(sequences * heads * channels);
    const FewQueries few{shape, queries.data(), 0.125f};
    const CodedKeys<bits> keys(few, cache);
    const CodedValues<bits> values(few, cache);
    constexpr int64_t stride = 160;  // whole vectors
    for (const Span span : {Span{0, 1, 0, tokens}, Span{1, 0, 3, 77}, Span{1, 1, 149, 1}}) {
        const std::string name = std::to_string(bits) + " bits, " + std::to_string(channels) + " channels, " +
                                 std::to_string(group) + " heads, " + std::to_string(span.count) + " tokens: ";
        Buffer<float> scores(group * stride);
        keys.score(span, scores.data(), stride);
        for (int64_t row = 0; row < group; ++row) print(name + "scores", scores.data() + row * stride, span.count);
        for (int64_t index = 0; index < group * stride; ++index) {
            scores.data()[index] = index % stride < span.count ? random_float() : 0.0f;
        }
        std::vector<float> totals(group * values.columns()), ordered;
        values.add(span, scores.data(), stride, totals.data(), values.columns());
        for (int64_t row = 0; row < group; ++row) {
            for (int64_t channel = 0; channel < channels; ++channel) {
                ordered.push_back(totals[row * values.columns() + values.place(channel)]);
            }
        }
        print(name + "values", ordered.data(), group * channels);
    }
}

void print_vectors() {
    constexpr int64_t count = 64;
    auto halves = random_integers<uint16_t>(count);
    halves[0] = 0x7f80, halves[1] = 0xff80, halves[2] = 0x8000;
    const auto* from = reinterpret_cast<const bfloat16*>(halves.data());
    auto floats = random_floats(count);
    floats[0] = infinity, floats[1] = std::bit_cast<float>(0x3f808000), floats[2] = std::bit_cast<float>(0x3f818000);
    std::vector<float> widened(count);
    std::vector<bfloat16> narrowed(count);
    std::vector<int32_t> whole(count);
    const auto codes = random_integers<int8_t>(count);
    const auto integers = random_integers<int32_t>(count);
    std::vector<float> from_codes(count), masked_floats(count);
    std::vector<uint8_t> bytes(count);
    auto mask = random_integers<uint8_t>(count);
    for (uint8_t& keep : mask) keep &= 2;
    std::array<float, 16> values;
    for (float& value : values) value = random_float();
    for (int64_t index = 0; index < count; index += width) {
        store(widened.data() + index, load(from + index));
        store(narrowed.data() + index, load(floats.data() + index));
        rounded(load(floats.data() + index + (index == 0 ? width : 0)) * 100.0f)
            .copy_to(whole.data() + index, stdx::element_aligned);
        store(from_codes.data() + index, load(codes.data() + index));
        store_bytes(bytes.data() + index, Integers(integers.data() + index, stdx::element_aligned));
        const int64_t before_last = std::min(width, count - 1 - index);  // a partial vector at the end
        store(masked_floats.data() + index, masked(load(floats.data() + index), mask.data() + index, before_last));
    }
    print("codes read", from_codes.data(), count);
    print("masked", masked_floats.data(), count);
    print("bytes written", bytes.data(), count);
    print("bfloat16 read", widened.data(), count);
    print("bfloat16 written", narrowed.data(), count);
    print("rounded", whole.data() + 16, count - 16);
    const auto print_picked = [&](auto levels) {
        std::vector<float> places(count), result(count);
        for (float& place : places) {
            place = static_cast<float>(level_bias + random_bits() % levels) + 0.49f * random_float();
        }
        for (int64_t index = 0; index < count; index += width) {
            store(result.data() + index, pick<levels>(load(places.data() + index), values));
        }
        print("picked of " + std::to_string(levels), result.data(), count);
    };
    print_picked(std::integral_constant<int, 4>{});
    print_picked(std::integral_constant<int, 8>{});
    print_picked(std::integral_constant<int, 16>{});
}

// All numbers of float16, and float32 from below its subnormal numbers to above its largest, half of them ties.
void print_float16() {
    std::vector<float16> halves;
    for (uint32_t magnitude = 0; magnitude <= 0x7c00; ++magnitude) {
        for (const uint32_t sign : {0x0000u, 0x8000u}) halves.push_back({static_cast<uint16_t>(magnitude | sign)});
    }
    halves.resize(rounded_up(static_cast<int64_t>(halves.size()), 16));
    std::vector<float> floats(1 << 16), widened(halves.size());
    for (float& value : floats) {
        const uint32_t bits = random_bits(), exponent = 127 - 27 + bits % 45, tie = bits >> 8 & 1;
        const uint32_t mantissa = tie ? (random_bits() & 0x7fe000u) | 0x1000u : random_bits() & 0x7fffffu;
        value = std::bit_cast<float>((bits & 0x80000000u) | exponent << 23 | mantissa);
    }
    floats[0] = infinity, floats[1] = 65519.996f, floats[2] = 65520.0f, floats[3] = 1e-40f;
    std::vector<float16> narrowed(floats.size());
    std::vector<float> one_by_one(halves.size());
    for (size_t index = 0; index < halves.size(); ++index) one_by_one[index] = to_float(halves[index]);
    for (size_t index = 0; index < halves.size(); index += width) store(&widened[index], load(&halves[index]));
    for (size_t index = 0; index < floats.size(); index += width) store(&narrowed[index], load(&floats[index]));
    print("float16 read", widened.data(), static_cast<int64_t>(widened.size()));
    print("float16 converted", one_by_one.data(), static_cast<int64_t>(one_by_one.size()));
    print("float16 written", narrowed.data(), static_cast<int64_t>(narrowed.size()));
}

// Packed codes; their probabilities depend on the order of a sum, and so on the width of a vector.
template <int count, class T>
void print_packed(int64_t keys, const T* row) {
    const Levels levels(-1.5f, std::vector<float>(count, 1.0f));
    std::vector<uint8_t> codes((keys + codes_in_byte<count> - 1) / codes_in_byte<count>);
    std::array<float, count> probabilities;
    levels_packed_row<count>(Scores<T, false>{row, nullptr}, codes.data(), probabilities.data(), keys, levels);
    print("packed codes of " + std::to_string(count), codes.data(), static_cast<int64_t>(codes.size()));
}

void print_packed(int64_t keys) {
    const std::vector<float> row = random_floats(keys);
    std::vector<bfloat16> halves(keys);
    for (int64_t index = 0; index < keys; ++index) {
        halves[index].bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(row[index]) >> 16);
    }
    print_packed<4>(keys, row.data());
    print_packed<16>(keys, row.data());
    print_packed<4>(keys, halves.data());
    print_packed<8>(keys, halves.data());
}

void print_all() {
    print_float16();
    for (const int64_t channels : {4, 20, 64, 72, 132}) print_scores_and_weights(channels);
    for (const int64_t keys : {4, 64, 512}) {
        print_values<1>(keys);
        print_values<2>(keys);
        print_values<3>(keys);
        print_values<4>(keys);
    }
    print_bits();
    for (const int64_t channels : {7, 16, 20, 64, 80, 128}) {
        for (const int64_t group : {1, 3}) {
            print_cache<8>(channels, group);
            print_cache<4>(channels, group);
        }
    }
    print_vectors();
    for (const int64_t keys : {1, 7, 64, 301}) print_packed(keys);
}

}  // namespace

}  // namespace softmaxkit

int main() { softmaxkit::print_all(); }
