// A segment at one size -> shared bands or parts for threads, bands of rows, and how many rows to hold.
//
// A part is a range of rows of every stage. Ranges of later stages begin further down, so that a
// part never needs rows above it: no row is computed twice, and only the last rows of a part wait
// for the first rows ("edges") of the next one, which was begun before it. Within a part, bands of
// rows go through all stages, each stage as far ahead of the next as that needs. Where the image is
// wide there is one part, and all threads share its bands.
#ifndef NMK_SCHEDULE_H
#define NMK_SCHEDULE_H

#include <cstddef>
#include <vector>

#include "reach.h"
#include "stages.h"

namespace nmk {

// What a schedule needs to know of a stage: its output's rows, or for a store its input's.
struct Work {
    int64_t rows;
    double row_bytes;  // of what it reads and writes for a row
    double row_cost;   // in any unit
    int64_t unit;      // rows that it does best together
    int64_t columns;   // of tiles
    size_t slot;       // that it writes
    bool read_here;    // by another stage of the segment
    bool kept;         // must be complete in the end
};

// Stage `reader` of the segment reads what `writer` writes.
struct Link {
    size_t reader, writer;
    Reach reach;
};

class Schedule {
public:
    Schedule() = default;
    // Makes one for the stages of a segment; links are sorted by reader.
    Schedule(std::vector<Work> stages, std::vector<Link> links, int threads);

    // Whether all threads go through a single part together, each taking its share of every stage's rows.
    bool shared() const { return shared_; }
    int parts() const { return parts_; }
    size_t stages() const { return stages_.size(); }
    int64_t bands(int part) const { return cuts_[at(part)].bands; }

    // The first row of a stage that a part computes; part parts() begins where the image ends.
    int64_t start(int part, size_t stage) const { return cuts_[at(part)].starts[stage]; }

    // Sets wanted[stage] to how many rows, from the image's top, a stage must have when a band ends.
    void want(int part, int64_t band, int64_t* wanted) const;

    // How many of a part's first rows of a stage the part above it reads.
    int64_t edge(size_t stage) const { return edges_[stage]; }

    // Rows that the slot of a stage must hold at once.
    int64_t held(size_t stage) const { return held_[stage]; }

private:
    struct Part {
        std::vector<int64_t> starts;
        std::vector<int64_t> begins, steps;  // of stages that nobody here reads: these lead
        int64_t bands;
    };

    static size_t at(int part) { return static_cast<size_t>(part); }
    void choose_shared(int threads);
    bool cut(int parts);
    std::vector<int64_t> split(double fraction) const;
    double share(const std::vector<int64_t>& rows) const;
    void set_bands(int part);
    bool simulate(int part);
    void walk(int part, int64_t* wanted) const;

    std::vector<Work> stages_;
    std::vector<Link> links_;
    std::vector<size_t> first_link_;  // of each stage as a reader, and the end
    std::vector<std::vector<size_t>> sharing_, reading_;  // stages and links of each stage's slot
    int parts_ = 0;
    bool shared_ = false;
    int64_t deep_ = 1;  // units of rows that a band has at least
    double band_bytes_ = 0.0;
    std::vector<Part> cuts_;  // one more than parts
    std::vector<int64_t> edges_, held_;
};

}  // namespace nmk

#endif  // NMK_SCHEDULE_H
