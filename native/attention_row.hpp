// How the 16-bit scores of a query are interpreted and turned into weights.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention_shape.hpp"

namespace softmaxkit {

struct Row {
    double unit = 0, zero = 0;  // score = unit * (16-bit score - middle) + zero
    double factor = 0;          // scales the result if weights are not normalised
    Words anchor = {}, multiplier = {};
    int table = 0;              // of the row's set and resolution
    int64_t seen = 0;           // number of keys that causality lets the query attend to; 0 for a fully masked row
    const uint8_t* mask = nullptr;

    // Sets the anchor, the step of distances from it, and the factor, given the largest score.
    void set_anchor(uint16_t highest, const Weights& weights, int64_t head) {
        if (highest == 0) seen = 0;  // fully masked
        anchor = Words{} + highest;
        if (weights.normalised()) {
            set_step(weights, weights.set_of_head(head));
            return;
        }
        const double offset = weights.offsets[head];
        const int set = weights.logistic() ? weights.set_of_score(score_at(highest) - offset) : 0;
        const double step = set_step(weights, set);
        // Half a step more, so that distances are rounded rather than truncated.
        const double half = unit > 0 ? step / 2 / unit : 0.0;
        double place = highest;  // 16-bit position of the anchor
        if (!weights.logistic() && unit > 0) {
            place = std::clamp(place_of(weights.limit + offset), 0.0, place);
        } else if (set > 0) {  // below the first anchor the function is an exponential, whose table fits anywhere
            const double exact = place_of(weights.anchors[set] + offset);
            if (exact + half <= most) place = std::max(exact, 0.0);  // else all scores are nearly equal
        }
        const double value = score_at(place) - offset;
        factor = (weights.logistic() ? 1.0 / (1.0 + std::exp(-value)) : std::exp(std::min(value, weights.limit))) /
                 weights.one;
        anchor = Words{} + word(place + half);
    }

private:
    static constexpr double most = 65535.0;

    double score_at(double place) const { return unit * (place - static_cast<double>(middle)) + zero; }
    // The position of a score; infinite or NaN if all positions have the same score.
    double place_of(double score) const { return (score - zero) / unit + static_cast<double>(middle); }

    // Takes the finest resolution of a set whose step is no finer than the unit, and returns the step.
    double set_step(const Weights& weights, int set) {
        double step = weights.steps[set];
        table = set * weights.resolutions;
        for (int more = 1; unit > step && more < weights.resolutions; ++more, ++table) step *= 2;
        multiplier = Words{} + word(65536.0 * unit / step);
        return step;
    }

    static uint16_t word(double value) { return static_cast<uint16_t>(std::min(std::nearbyint(value), most)); }
};

}  // namespace softmaxkit
