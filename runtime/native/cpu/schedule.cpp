// Rows, bytes, costs and links of stages -> parts, bands, edges and rows to hold.

#include "schedule.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace nmk {

namespace {

constexpr int kPartsPerThread = 2;  // so that a thread that was held up leaves work to the others
constexpr int64_t kLeastRows = 8;   // of a part
constexpr int64_t kLeastColumns = 8;  // of tiles, for threads to share a band
constexpr int64_t kLeastTiles = 6;    // of a thread in each stage of a shared band
constexpr double kEven = 0.9;  // of all threads' time in which they have tiles, at least
constexpr int kBisections = 40;
constexpr int64_t kNotYet = -(int64_t{1} << 40);

int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }

int64_t round_up(int64_t value, int64_t multiple) {
    return value >= 0 ? ceil_div(value, multiple) * multiple : -(-value / multiple * multiple);
}

// What a band's rows of the widest stage may take, so that they are in L2 when the next stage reads.
double band_bytes() {
    const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return static_cast<double>(reported > 0 ? reported : 262144) / 2;
}

}  // namespace

Schedule::Schedule(std::vector<Work> stages, std::vector<Link> links, int threads)
    : stages_(std::move(stages)), links_(std::move(links)), first_link_(stages_.size() + 1) {
    for (const Link& link : links_) ++first_link_[link.reader + 1];
    for (size_t s = 0; s < stages_.size(); ++s) first_link_[s + 1] += first_link_[s];
    sharing_.resize(stages_.size()), reading_.resize(stages_.size());
    for (size_t s = 0; s < stages_.size(); ++s) {
        for (size_t other = 0; other < stages_.size(); ++other) {
            if (stages_[other].slot == stages_[s].slot) sharing_[s].push_back(other);
        }
        for (size_t l = 0; l < links_.size(); ++l) {
            if (stages_[links_[l].writer].slot == stages_[s].slot) reading_[s].push_back(l);
        }
    }
    int64_t tallest = 1;
    for (const Work& stage : stages_) tallest = std::max(tallest, stage.rows);
    const int64_t fitting = std::max<int64_t>(tallest / kLeastRows, 1);
    choose_shared(threads);
    const int wanted = threads == 1 || shared_ ? 1 : threads * kPartsPerThread;
    int parts = static_cast<int>(std::min<int64_t>(wanted, fitting));
    while (!cut(parts)) parts /= 2;
}

// Whether the costliest stage is wide enough to share, and how deep a band then is, so that every thread has as
// many tiles as the others, or nearly.
void Schedule::choose_shared(int threads) {
    band_bytes_ = band_bytes();
    const auto less = [](const Work& a, const Work& b) {
        return a.row_cost * static_cast<double>(a.rows) < b.row_cost * static_cast<double>(b.rows);
    };
    const auto costliest = std::max_element(stages_.begin(), stages_.end(), less);
    if (threads == 1 || costliest == stages_.end() || costliest->columns < std::max(kLeastColumns, int64_t{threads})) {
        return;
    }
    shared_ = true;
    band_bytes_ *= threads;  // each has its columns in its own L2
    const auto even = [&](int64_t tiles) {
        const int64_t rounds = ceil_div(tiles, threads);
        return rounds >= kLeastTiles && static_cast<double>(tiles) >= kEven * static_cast<double>(rounds * threads);
    };
    while (!even(deep_ * costliest->columns)) ++deep_;
}

// False if a part would need rows from beyond the next one; a single part never does.
bool Schedule::cut(int parts) {
    parts_ = parts;
    cuts_.assign(at(parts + 1), Part{});
    edges_.assign(stages_.size(), 0), held_.assign(stages_.size(), 1);
    for (int part = 1; part < parts; ++part) {
        // By cost: the same fraction of every stage's rows is not the same share of the work.
        double low = 0.0, high = 1.0;
        for (int i = 0; i < kBisections; ++i) {
            const double middle = (low + high) / 2;
            (share(split(middle)) * parts < part ? low : high) = middle;
        }
        cuts_[at(part)].starts = split(high);
    }
    cuts_.front().starts.assign(stages_.size(), 0);
    for (const Work& stage : stages_) cuts_.back().starts.push_back(stage.rows);
    for (int part = 0; part < parts; ++part) {
        set_bands(part);
        if (!simulate(part)) return false;
    }
    return true;
}

// The rows at which a part begins: every stage where it needs nothing above its inputs' beginnings.
std::vector<int64_t> Schedule::split(double fraction) const {
    std::vector<int64_t> rows(stages_.size());
    for (size_t s = 0; s < stages_.size(); ++s) {
        bool leads = true;
        int64_t begin = 0;
        for (size_t l = first_link_[s]; l < first_link_[s + 1]; ++l) {
            const Link& link = links_[l];
            if (link.reach.form == Reach::Form::size_only) continue;
            leads = false;
            int64_t low = begin, high = stages_[s].rows;
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if (link.reach.first(middle) >= rows[link.writer]) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            begin = low;
        }
        if (leads) begin = std::llround(fraction * static_cast<double>(stages_[s].rows));
        // Tiles of a stage lie alike however the image is cut: results are the same to the last bit.
        rows[s] = std::min(round_up(begin, stages_[s].unit), stages_[s].rows);
    }
    return rows;
}

// The share of all work that lies above these rows.
double Schedule::share(const std::vector<int64_t>& rows) const {
    double above = 0.0, all = 0.0;
    for (size_t s = 0; s < stages_.size(); ++s) {
        above += stages_[s].row_cost * static_cast<double>(rows[s]);
        all += stages_[s].row_cost * static_cast<double>(stages_[s].rows);
    }
    return all > 0.0 ? above / all : 0.0;
}

void Schedule::set_bands(int part) {
    Part& own = cuts_[at(part)];
    const std::vector<int64_t>& stops = cuts_[at(part + 1)].starts;
    size_t widest = 0;
    double most = 0.0;
    for (size_t s = 0; s < stages_.size(); ++s) {
        const double bytes = stages_[s].row_bytes * static_cast<double>(stops[s] - own.starts[s]);
        if (bytes > most) widest = s, most = bytes;
    }
    const int64_t rows = stops[widest] - own.starts[widest];
    const int64_t least = stages_[widest].unit * deep_;
    const auto fitting = static_cast<int64_t>(std::ceil(most / band_bytes_));
    const int64_t bands = std::clamp<int64_t>(fitting, 1, std::max<int64_t>(ceil_div(rows, least), 1));

    // Leading stages begin above their first row, so that the first bands fill the stages before
    // them one by one and nobody has to hold the rows of a whole start.
    std::vector<int64_t> wanted(own.starts);
    for (size_t s = 0; s < stages_.size(); ++s) {
        if (stages_[s].read_here) wanted[s] = kNotYet;
    }
    own.begins = own.starts;
    own.steps.assign(stages_.size(), 0);
    walk(part, wanted.data());
    double ahead = 0.0;
    for (size_t s = 0; s < stages_.size(); ++s) {
        ahead = std::max(ahead, static_cast<double>(wanted[s] - own.starts[s]) / static_cast<double>(stages_[s].rows));
    }
    own.bands = 1;
    for (size_t s = 0; s < stages_.size(); ++s) {
        if (stages_[s].read_here) continue;
        const double scale = static_cast<double>(stages_[s].rows) / static_cast<double>(stages_[widest].rows);
        const auto unit = std::max<int64_t>(std::llround(scale * static_cast<double>(least)), 1);
        own.steps[s] = std::max<int64_t>(round_up(ceil_div(stops[s] - own.starts[s], bands), unit), 1);
        own.begins[s] -= static_cast<int64_t>(std::ceil(ahead * static_cast<double>(stages_[s].rows)));
        own.bands = std::max(own.bands, ceil_div(stops[s] - own.begins[s], own.steps[s]));
    }
}

void Schedule::want(int part, int64_t band, int64_t* wanted) const {
    const Part& own = cuts_[at(part)];
    const std::vector<int64_t>& stops = cuts_[at(part + 1)].starts;
    const bool last = band + 1 == own.bands;
    for (size_t s = 0; s < stages_.size(); ++s) {
        const int64_t lead = std::min(own.begins[s] + own.steps[s] * (band + 1), stops[s]);
        wanted[s] = stages_[s].read_here ? kNotYet : lead;
        if (last && stages_[s].kept) wanted[s] = stops[s];
    }
    walk(part, wanted);
}

// From the rows that leading stages want -> what they need of the stages before them.
void Schedule::walk(int part, int64_t* wanted) const {
    const std::vector<int64_t>& starts = cuts_[at(part)].starts;
    const std::vector<int64_t>& stops = cuts_[at(part + 1)].starts;
    for (size_t s = stages_.size(); s-- > 0;) {
        if (wanted[s] < stops[s]) {
            wanted[s] = std::min(starts[s] + round_up(wanted[s] - starts[s], stages_[s].unit), stops[s]);
        }
        for (size_t l = first_link_[s]; l < first_link_[s + 1]; ++l) {
            const Link& link = links_[l];
            const int64_t rows = link.reach.before(std::min(wanted[s], stops[s]));
            wanted[link.writer] = std::max(wanted[link.writer], rows);
        }
    }
}

// Goes through a part as a run will, to see what slots must hold and which edges are read.
bool Schedule::simulate(int part) {
    const std::vector<int64_t>& stops = cuts_[at(part + 1)].starts;
    std::vector<int64_t> done(cuts_[at(part)].starts), wanted(stages_.size());
    for (int64_t band = 0; band < bands(part); ++band) {
        want(part, band, wanted.data());
        for (size_t s = 0; s < stages_.size(); ++s) {
            if (wanted[s] <= done[s]) continue;
            int64_t oldest = done[s], newest = done[s] = wanted[s];
            for (size_t other : sharing_[s]) newest = std::max(newest, done[other]);
            for (size_t l : reading_[s]) {
                const Link& link = links_[l];
                if (done[link.reader] >= stops[link.reader]) continue;
                oldest = std::min(oldest, link.reach.first(done[link.reader]));
            }
            held_[s] = std::max(held_[s], newest - oldest);
        }
    }
    for (size_t s = 0; s < stages_.size(); ++s) {
        edges_[s] = std::max(edges_[s], done[s] - stops[s]);
        if (part + 2 <= parts_ && done[s] > cuts_[at(part + 2)].starts[s]) return false;
    }
    return true;
}

}  // namespace nmk
