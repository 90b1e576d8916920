// Keys and values of a cache as codes of 8 or of 4 bits. A code times its step is a number; of 8 bits a token has one
// step, of 4 bits every 32 of its channels have one. Two codes of 4 bits share a byte, the first in the lower half,
// and are stored plus 8. Tokens lie in pages, which a table gives to sequences; without one, a sequence is one page.
#pragma once

#include <limits>

#include "few_queries.hpp"
#include "quantise.hpp"

namespace softmaxkit {

constexpr int64_t channels_of_step = 32;  // of codes of 4 bits

template <int bits>
struct Codes {
    static_assert(bits == 8 || bits == 4);
    using Code = std::conditional_t<bits == 8, int8_t, uint8_t>;
    using Step = std::conditional_t<bits == 8, float, bfloat16>;

    const Code* from;
    const Step* steps;                       // (pages, key heads, groups, tokens), token by token
    std::array<int64_t, 3> strides;          // in bytes, of page, key head, token
    std::array<int64_t, 3> step_strides;     // of page, key head, group
    int64_t channels, tokens;                // tokens: of the longest sequence
    const int64_t* table;                    // (sequences, pages_of_sequence), or null
    int64_t pages_of_sequence, page_tokens;

    int64_t groups() const { return bits == 8 ? 1 : (channels + channels_of_step - 1) / channels_of_step; }
    int64_t bytes() const { return bits == 8 ? channels : (channels + 1) / 2; }

    // Where a token lies, and how many of its sequence lie side by side from it on.
    struct Place {
        int64_t page, token, together;
    };
    Place place(const Span& span, int64_t index) const {
        const int64_t at = span.first + index;
        if (table == nullptr) return {span.batch, at, std::numeric_limits<int64_t>::max()};
        const int64_t in_page = at % page_tokens;
        return {table[span.batch * pages_of_sequence + at / page_tokens], in_page, page_tokens - in_page};
    }

    // Steps of consecutive tokens of a span: where they are, or in `room` where pages part them.
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

    // Where the steps of a later token lie, to prefetch them: pages lie anywhere, and no processor foresees the jump.
    const Step* later_steps(const Span& span, int64_t group, int64_t index) const {
        if (table == nullptr || span.first + index >= tokens) return steps;
        const Place at = place(span, index);
        return token(steps, step_strides, at.page, span.key_head, group) + at.token;
    }
};

// The codes of a span's tokens, one after the other.
template <int bits>
class Rows {
public:
    using Code = typename Codes<bits>::Code;

    Rows(const Codes<bits>& codes, const Span& span, int64_t index) : codes_(codes), span_(span), index_(index) {}

    // Calls work(at), where at(row) is where one of the next few tokens lies: the last of so many again beyond them.
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

    // Where the token lies that comes so many later, to ask for it; beyond the last an address and no more.
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
