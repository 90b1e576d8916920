// Drives a unit with beats from a file, with gaps, stalls and resets, and compares every result with the expected one.
//
// The file consists of 32-bit words: the number of words in a score beat, a result beat and a configuration write; the
// number of each, and of places from which to continue after a reset; then the score beats, the expected result beats,
// the writes, and the places. A write is preceded by the number of score beats that must have been accepted before it
// is offered. A place consists of the index of a score beat that begins a row (or of the end), and the first and end
// index of the writes that load its constants.
//
// Arguments: FILE, bits of a result, gap probability at the source (in 256ths) and longest gap, the same for stalls of
// the sink, its ready mode (0: random; 1: low until valid is high; 2: high until valid is high), whether resets come at
// any time (0: one at the start), seed, patience in cycles, cycle log (or -), waveform (or -).
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "Vdut.h"
#include "verilated.h"
#ifdef WAVEFORM
#include "verilated_vcd_c.h"
#endif

using Words = std::vector<uint32_t>;

template <typename Port>
void drive(Port& port, const uint32_t* words, size_t count) {
    if constexpr (std::is_integral_v<Port>) {
        uint64_t value = words[0];
        if (count > 1) value |= uint64_t(words[1]) << 32;
        port = static_cast<Port>(value);
    } else {
        for (size_t i = 0; i < count; ++i) port[i] = words[i];
    }
}

template <typename Port>
void sample(const Port& port, uint32_t* words, size_t count) {
    if constexpr (std::is_integral_v<Port>) {
        words[0] = static_cast<uint32_t>(port);
        if (count > 1) words[1] = static_cast<uint32_t>(static_cast<uint64_t>(port) >> 32);
    } else {
        for (size_t i = 0; i < count; ++i) words[i] = port[i];
    }
}

struct Random {
    uint64_t state;
    uint32_t next() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return static_cast<uint32_t>(state >> 32);
    }
};

// Random pauses of random length.
struct Pauses {
    uint32_t probability, longest;
    Random random;
    uint32_t left = 0;
    bool pause() {
        if (left) return --left, true;
        if (random.next() % 256 >= probability) return false;
        left = random.next() % longest;
        return true;
    }
};

// Where to continue after a reset.
struct Place {
    uint32_t beat, begin, end;
};

// A reset is due a number of results and then cycles after the previous one, few or many, so that resets meet every
// state. Half of them are put off until a result is waiting.
struct Resets {
    bool wanted;
    Random random;
    uint32_t results = 0, cycles = 0;
    bool patient = false;
    uint32_t some() { return random.next() % (1u << random.next() % 8); }
    void plan() { results = some(), cycles = some(), patient = random.next() % 2; }
    bool due(bool waiting) {
        if (!wanted || results) return false;
        if (cycles) return --cycles, false;
        return waiting || !patient;
    }
    void received() { results -= results > 0; }
};

// Number of results in a beat that differ; a wrong `last` alone counts as one.
size_t differences(const uint32_t* got, const uint32_t* wanted, size_t words, size_t bits) {
    size_t count = 0;
    for (size_t lane = 0; bits && (lane + 1) * bits <= words * 32; ++lane) {
        for (size_t bit = lane * bits; bit < (lane + 1) * bits; ++bit) {
            if (((got[bit / 32] ^ wanted[bit / 32]) >> (bit % 32)) & 1) {
                ++count;
                break;
            }
        }
    }
    return count ? count : 1;
}

int main(int argc, char** argv) {
    if (argc != 13) return std::fprintf(stderr, "twelve arguments are required\n"), 2;
    std::ifstream file(argv[1], std::ios::binary);
    uint32_t header[7];
    file.read(reinterpret_cast<char*>(header), sizeof header);
    const size_t score_words = header[0], result_words = header[1], write_words = header[2];
    const size_t beats = header[3], results = header[4], writes = header[5];
    Words scores(score_words * beats), expected(result_words * results), configuration((write_words + 1) * writes);
    std::vector<Place> places(header[6]);
    for (Words* words : {&scores, &expected, &configuration})
        file.read(reinterpret_cast<char*>(words->data()), static_cast<std::streamsize>(words->size() * 4));
    file.read(reinterpret_cast<char*>(places.data()), static_cast<std::streamsize>(places.size() * sizeof(Place)));
    if (!file) return std::fprintf(stderr, "the file of beats is too short\n"), 2;
    const uint64_t seed = std::strtoull(argv[9], nullptr, 10) * 0x9E3779B97F4A7C15ull + 1;
    auto number = [&](int at) { return static_cast<uint32_t>(std::strtoul(argv[at], nullptr, 10)); };
    Pauses gaps{number(3), number(4), {seed}}, write_gaps{number(3), number(4), {seed ^ 0x3333}}, stalls{number(5), number(6), {~seed}};
    const uint32_t ready_mode = number(7);
    Resets resets{number(8) && !places.empty(), {seed ^ 0x5555}};
    // With gaps, a payload that is not offered is that of any beat or write: a unit must not take it. Without, it does
    // not change, since the energy of a netlist is that of such a run.
    Random others{seed ^ 0x7777};
    const uint64_t patience = number(10);
    const bool logged = std::strcmp(argv[11], "-") != 0;

    const auto context = std::make_unique<VerilatedContext>();
    if (resets.wanted) context->randReset(2), context->randSeed(static_cast<int>(number(9)) + 1);
    const auto dut = std::make_unique<Vdut>(context.get());
#ifdef WAVEFORM
    context->traceEverOn(true);
    VerilatedVcdC waveform;
    dut->trace(&waveform, 99);
    waveform.open(argv[12]);
#endif
    uint64_t time = 0;
    auto settle = [&](int clock) {
        dut->clk = clock;
        dut->eval();
#ifdef WAVEFORM
        waveform.dump(time);
#endif
        time += 5;
    };
    auto edge = [&] { settle(1), dut->clk = 0; };

    dut->scores_valid = 0, dut->results_ready = 0, dut->rst = 1;
#ifdef CONFIGURATION
    dut->configuration_valid = 0;
#endif
    for (int i = 0; i < (resets.wanted ? 1 : 4); ++i) settle(0), edge();
    dut->rst = 0;
    resets.plan();

    std::vector<uint64_t> taken_at, received_at;
    Words got(result_words), held(result_words), offer(result_words);
    size_t taken = 0, received = 0, written = 0, mismatches = 0, wrong_results = 0, extra = 0, unstable = 0;
    size_t dependent = 0, restarts = 0, intruding = 0;
    bool offered = false, offered_write = false, waiting = false;
    uint64_t cycle = 0, quiet = 0;
#ifdef CONFIGURATION
    auto after = [&](size_t write) { return configuration[write * (write_words + 1)]; };
#endif

    // Resets the unit in whatever state it is in, with offers pending. What was inside is lost; the next row follows.
    auto reset = [&] {
        dut->rst = 1;
        for (uint32_t left = 1 + resets.random.next() % 2, first = left; left; --left, ++cycle) {
            dut->scores_valid = taken < beats && resets.random.next() % 2;
            if (taken < beats) drive(dut->scores_payload, &scores[taken * score_words], score_words);
            dut->results_ready = !waiting && resets.random.next() % 2;
            settle(0);
            if (left != first && dut->results_valid) ++extra;
            edge();
        }
        dut->rst = 0;
        const auto place = std::find_if(places.begin(), places.end(), [&](const Place& at) { return at.beat >= taken; });
        if (place->beat > received) std::printf("lost %zu %u\n", received, place->beat);
        taken = received = place->beat;
        if (written != place->end) written = place->begin;
        offered = offered_write = waiting = false;
        ++restarts, quiet = 0;
        resets.plan();
    };
    while (quiet < patience) {
        const bool finished = taken == beats && received >= results && written == writes;
        if (finished && quiet > 300) break;
        if (!finished && resets.due(waiting)) reset();
        if (!offered && taken < beats && !gaps.pause()) {
            offered = true;
            drive(dut->scores_payload, &scores[taken * score_words], score_words);
        } else if (!offered && gaps.probability && beats) {
            drive(dut->scores_payload, &scores[others.next() % beats * score_words], score_words);
        }
        dut->scores_valid = offered;
#ifdef CONFIGURATION
        // The first write of a group is offered as soon as it is due, so that it precedes its row.
        if (!offered_write && written < writes && after(written) <= taken &&
            !(written && after(written) == after(written - 1) && write_gaps.pause())) {
            offered_write = true;
            drive(dut->configuration_payload, &configuration[written * (write_words + 1) + 1], write_words);
        } else if (!offered_write && gaps.probability && writes) {
            drive(dut->configuration_payload, &configuration[others.next() % writes * (write_words + 1) + 1], write_words);
        }
        dut->configuration_valid = offered_write;
#endif
        // In ready modes 1 and 2, ready follows valid within the cycle; the offer must not depend on ready in turn.
        const bool accepting = !stalls.pause();
        const bool before = ready_mode == 1 ? false : ready_mode == 2 ? !waiting || accepting : accepting;
        const bool after = ready_mode == 2 && !waiting ? false : accepting;
        dut->results_ready = before;
        settle(0);
        if (dut->results_valid && after != before) {
            sample(dut->results_payload, offer.data(), result_words);
            dut->results_ready = after;
            settle(0);
            sample(dut->results_payload, got.data(), result_words);
            if (!dut->results_valid || got != offer) ++dependent;
        }

        ++quiet;
        if (offered && dut->scores_ready) {
            if (logged) taken_at.push_back(cycle);
            offered = false, ++taken, quiet = 0;
        }
#ifdef CONFIGURATION
        if (offered_write && dut->configuration_ready) {
            if (taken > received && !places.empty()) ++intruding;
            offered_write = false, ++written, quiet = 0;
        }
#endif
        if (waiting && !dut->results_valid) ++unstable;
        if (dut->results_valid) {
            sample(dut->results_payload, got.data(), result_words);
            if (waiting && got != held) ++unstable;
            if (dut->results_ready) {
                if (received < results) quiet = 0;  // surplus results are not progress
                if (received >= results) {
                    ++extra;
                } else if (std::memcmp(got.data(), &expected[received * result_words], result_words * 4) != 0) {
                    const uint32_t* wanted = &expected[received * result_words];
                    wrong_results += differences(got.data(), wanted, result_words, number(2));
                    if (++mismatches <= 100) {
                        std::printf("mismatch %zu", received);
                        for (uint32_t word : got) std::printf(" %08x", word);
                        std::printf("\n");
                    }
                }
                if (logged) received_at.push_back(cycle);
                ++received, resets.received();
            }
        }
        waiting = dut->results_valid && !dut->results_ready;
        held = got;
        edge();
        ++cycle;
    }
    dut->final();
#ifdef WAVEFORM
    waveform.close();
#endif
    if (logged) {
        std::ofstream log(argv[11], std::ios::binary);
        log.write(reinterpret_cast<const char*>(taken_at.data()), static_cast<std::streamsize>(taken_at.size() * 8));
        log.write(reinterpret_cast<const char*>(received_at.data()),
                  static_cast<std::streamsize>(received_at.size() * 8));
    }
    std::printf("done taken=%zu written=%zu received=%zu mismatches=%zu wrong_results=%zu extra=%zu unstable=%zu ", taken,
                written, std::min(received, results), mismatches, wrong_results, extra, unstable);
    std::printf("dependent=%zu intruding=%zu resets=%zu cycles=%llu\n", dependent, intruding, restarts, static_cast<unsigned long long>(cycle));
    return 0;
}
