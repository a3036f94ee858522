// Some rows of an operation's output, and the share of them that is one thread's.
#ifndef NMK_ROWS_H
#define NMK_ROWS_H

#include <cstdint>

namespace nmk {

// Rows first <= y < stop of all channels, of which thread `number` of `threads` computes its share.
struct Rows {
    int64_t first, stop;
    int number, threads;

    // Which of so many equal items are this thread's: begin <= item < end.
    int64_t begin(int64_t items) const { return items * number / threads; }
    int64_t end(int64_t items) const { return items * (number + 1) / threads; }

    // Calls body(channel, y) for each row of a channel that is this thread's.
    template <class Body>
    void each(int64_t channels, const Body& body) const {
        const int64_t items = (stop - first) * channels, last = end(items);
        for (int64_t item = begin(items); item < last; ++item) body(item % channels, first + item / channels);
    }
};

}  // namespace nmk

#endif  // NMK_ROWS_H
