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
    int resolution = 0;
    int64_t seen = 0;           // number of keys that causality lets the query attend to; 0 for a fully masked row
    const uint8_t* mask = nullptr;

    // Sets the anchor, the step of distances from it, and the factor, given the largest score.
    void set_anchor(uint16_t highest, const Weights& weights, int64_t head) {
        if (highest == 0) seen = 0;  // fully masked
        anchor = Words{} + highest;
        double step = weights.step;
        while (unit > step && resolution + 1 < weights.resolutions) {
            step *= 2;
            ++resolution;
        }
        multiplier = Words{} + word(65536.0 * unit / step);
        if (weights.normalised) return;
        const double offset = weights.offsets[head] + weights.limit;
        constexpr double origin = static_cast<double>(middle);
        double place = highest;  // 16-bit position of the limit, or of the largest score if that is below it
        if (unit > 0) place = std::clamp((offset - zero) / unit + origin, 0.0, place);
        const double value = unit * (place - origin) + zero - offset;
        factor = std::exp(static_cast<float>(std::min(value, 0.0) + weights.limit)) / weights.one;
        // Half a step more, so that distances are rounded rather than truncated.
        const double half = unit > 0 ? step / 2 / unit : 0.0;
        anchor = Words{} + word(place + half);
    }

private:
    static uint16_t word(double value) { return static_cast<uint16_t>(std::min(std::nearbyint(value), 65535.0)); }
};

}  // namespace softmaxkit
