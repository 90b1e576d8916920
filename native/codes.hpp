// Keys and values of a cache as 8-bit or 4-bit codes, each representing code * step. There is one step per token with
// 8 bits, one per 32 channels of a token with 4. 4-bit codes are stored plus 8, two per byte, the first in the lower
// nibble. Tokens are stored in pages, which a table assigns to sequences; without a table, a sequence is one page.
#pragma once

#include <limits>

#include "few_queries.hpp"
#include "quantise.hpp"

namespace softmaxkit {

constexpr int64_t channels_of_step = 32;  // channels that share a step of 4-bit codes

template <int bits>
struct Codes {
    static_assert(bits == 8 || bits == 4);
    using Code = std::conditional_t<bits == 8, int8_t, uint8_t>;
    using Step = std::conditional_t<bits == 8, float, bfloat16>;

    const Code* from;
    const Step* steps;                       // (pages, key heads, groups, tokens), tokens contiguous
    std::array<int64_t, 3> strides;          // in bytes, of page, key head, token
    std::array<int64_t, 3> step_strides;     // of page, key head, group
    int64_t channels, tokens;                // tokens: of the longest sequence
    const int64_t* table;                    // (sequences, pages_of_sequence), or null
    int64_t pages_of_sequence, page_tokens;

    int64_t groups() const { return bits == 8 ? 1 : (channels + channels_of_step - 1) / channels_of_step; }
    int64_t bytes() const { return bits == 8 ? channels : (channels + 1) / 2; }

    // The location of a token, and the number of tokens of its sequence that are contiguous from there.
    struct Place {
        int64_t page, token, together;
    };
    Place place(const Span& span, int64_t index) const {
        const int64_t at = span.first + index;
        if (table == nullptr) return {span.batch, at, std::numeric_limits<int64_t>::max()};
        const int64_t in_page = at % page_tokens;
        return {table[span.batch * pages_of_sequence + at / page_tokens], in_page, page_tokens - in_page};
    }

    // Steps of consecutive tokens of a span: in place, or copied to `room` if they span several pages.
    const Step* steps_of(const Span& span, int64_t group, int64_t index, int64_t count, Step* room) const {
        for (int64_t done = 0; done < count;) {
            const Place at = place(span, index + done);
            const Step* some = token(steps, step_strides, at.page, span.key_head, group) + at.token;
            if (at.together >= count && done == 0) return some;
            const int64_t copied = std::min(at.together, count - done);
            std::copy_n(some, copied, room + done);
            done += copied;
        }
        return room;
    }

    // Address of the steps of a later token, for prefetching: hardware prefetchers cannot predict jumps between pages.
    const Step* later_steps(const Span& span, int64_t group, int64_t index) const {
        if (table == nullptr || span.first + index >= tokens) return steps;
        const Place at = place(span, index);
        return token(steps, step_strides, at.page, span.key_head, group) + at.token;
    }
};

// Iterates over the codes of a span's tokens.
template <int bits>
class Rows {
public:
    using Code = typename Codes<bits>::Code;

    Rows(const Codes<bits>& codes, const Span& span, int64_t index) : codes_(codes), span_(span), index_(index) {}

    // Calls work(at), where at(row) is the address of one of the next `count` tokens; further rows repeat the last.
    template <int64_t few, class Work>
    void next(int64_t count, const Work& work) {
        if (together_ == 0) turn();
        if (count == few && together_ >= few) {
            work([from = next_, stride = codes_.strides[2]](int64_t row) { return from + row * stride; });
            return pass(few);
        }
        std::array<const Code*, few> rows;
        for (int64_t row = 0; row < few; ++row) {
            if (row < count) {
                if (together_ == 0) turn();
                rows[row] = next_;
                pass(1);
            } else {
                rows[row] = rows[row - 1];
            }
        }
        work([&rows](int64_t row) { return rows[row]; });
    }

    // Address of the token `tokens` further on, for prefetching only: beyond the last token it must not be read.
    const Code* later(int64_t tokens) const {
        const int64_t index = index_ + tokens;
        if (codes_.table == nullptr) return next_ + tokens * codes_.strides[2];
        return span_.first + index < codes_.tokens ? row_of(codes_.place(span_, index)) : next_;
    }

private:
    const Code* row_of(const typename Codes<bits>::Place& at) const {
        return token(codes_.from, codes_.strides, at.page, span_.key_head, at.token);
    }

    void pass(int64_t count) {
        next_ += count * codes_.strides[2];
        together_ -= count;
        index_ += count;
    }

    void turn() {
        const auto at = codes_.place(span_, index_);
        next_ = row_of(at);
        together_ = at.together;
    }

    const Codes<bits>& codes_;
    const Span span_;
    int64_t index_, together_ = 0;
    const Code* next_ = nullptr;
};

}  // namespace softmaxkit
