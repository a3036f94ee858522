// A program, images and threads -> the outputs: bands shared by all threads, or parts for each, band by band.

#include <algorithm>
#include <chrono>
#include <thread>

#include "pool.h"
#include "spatial.h"
#include "steps.h"
#include "workspace.h"

namespace nmk {

namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kMostIdle = 16;

class Execution {
public:
    Execution(const Program& program, Workspace& workspace, Pool& pool, const float* const* inputs,
              float* const* outputs, int level)
        : program_(program), work_(workspace), pool_(pool), inputs_(inputs), outputs_(outputs), level_(level) {}

    void image(int64_t number) {
        number_ = number;
        for (size_t segment = 0; segment < work_.stages.segments.size(); ++segment) {
            if (!work_.stages.segments[segment].by_rows) {
                moments(work_.stages.segments[segment].first);
                continue;
            }
            const Schedule& schedule = work_.schedules[segment];
            for (int part = 0; part < schedule.parts(); ++part) {
                for (size_t s = 0; s < schedule.stages(); ++s) {
                    work_.computed(part)[s].store(schedule.start(part, s), std::memory_order_relaxed);
                }
            }
            // The lowest part first: each waits for rows of the one under it, and for no other.
            const int last = schedule.parts() - 1;
            const int jobs = schedule.shared() ? pool_.threads() : schedule.parts();
            pool_.each(jobs, [&](int64_t first, int64_t stop, int thread) {
                for (int64_t i = first; i < stop; ++i) {
                    run_part(segment, schedule.shared() ? 0 : last - static_cast<int>(i), thread);
                }
            });
        }
    }

private:
    View view(uint32_t value, uint32_t slot, int thread) const {
        return work_.view(program_, value, slot, thread);
    }

    bool idle(const Stage& stage) const { return program_.operations[stage.index].idle[static_cast<size_t>(level_)]; }

    double& seconds(const Stage& stage, int thread) {
        return work_.seconds[static_cast<size_t>(thread) * program_.operations.size() + stage.index];
    }

    void run_part(size_t segment, int part, int thread) {
        const Schedule& schedule = work_.schedules[segment];
        const int number = schedule.shared() ? thread : 0, threads = schedule.shared() ? pool_.threads() : 1;
        int64_t *done = work_.done(thread), *wanted = work_.wanted(thread);
        for (size_t s = 0; s < schedule.stages(); ++s) done[s] = schedule.start(part, s);
        for (int64_t band = 0; band < schedule.bands(part); ++band) {
            schedule.want(part, band, wanted);
            for (size_t s = 0; s < schedule.stages(); ++s) {
                const int64_t stop = schedule.start(part + 1, s);
                const int64_t own = std::min(wanted[s], stop);
                if (own > done[s]) {
                    compute(segment, part, s, thread, {done[s], own, number, threads});
                    done[s] = own;
                    if (schedule.shared()) pool_.meet();
                }
                if (wanted[s] > done[s]) {
                    fetch(segment, part, s, thread, done[s], wanted[s]);
                    done[s] = wanted[s];
                }
            }
        }
    }

    void compute(size_t segment, int part, size_t s, int thread, Rows rows) {
        const Stage& stage = work_.stages.all[work_.stages.segments[segment].first + s];
        const View in = view(stage.reads[0].value, stage.reads[0].slot, thread);
        const View out = view(stage.value, stage.slot, thread);
        const int lanes = program_.kernels->lanes;
        if (stage.role == Role::load) {
            to_strips(inputs_[stage.index] + number_ * out.channels * out.height * out.width, out,
                      program_.turned, lanes, rows);
        } else if (stage.role == Role::store) {
            from_strips(in, outputs_[stage.index] + number_ * in.channels * in.height * in.width,
                        program_.turned, lanes, rows);
        } else if (!idle(stage)) {
            const auto started = std::chrono::steady_clock::now();
            const View second = view(stage.reads[1].value, stage.reads[1].slot, thread);
            compute_rows({&program_.operations[stage.index], work_.plans[stage.index].data(), level_,
                          program_.kernels, in, second, out, work_.scratch(thread)},
                         rows);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
            seconds(stage, thread) += took.count();
        }
        if (part > 0 && stage.slot != kNone) show(segment, part, s, out, rows.first, rows.stop);
    }

    // Lets the part above see rows that were just computed: its edge in memory of its own.
    void show(size_t segment, int part, size_t s, const View& out, int64_t first, int64_t stop) {
        const Schedule& schedule = work_.schedules[segment];
        const size_t index = work_.stages.segments[segment].first + s;
        const int64_t begin = schedule.start(part, s);
        const int64_t end = std::min(stop, begin + schedule.edge(s));
        if (first >= end) return;
        if (!work_.whole(work_.stages.all[index].slot)) {
            const ptrdiff_t row = out.channels * out.plane;
            float* edge = work_.edge(segment, part, index);
            for (int64_t y = first; y < end; ++y) {
                std::copy_n(out.data + out.row_at(y), row, edge + (y - begin) * row);
            }
        }
        work_.computed(part)[s].store(stop, std::memory_order_release);
    }

    // Brings rows below a part, which the next part has computed or will have in a moment.
    void fetch(size_t segment, int part, size_t s, int thread, int64_t first, int64_t stop) {
        const size_t index = work_.stages.segments[segment].first + s;
        const Stage& stage = work_.stages.all[index];
        const std::atomic<int64_t>& computed = work_.computed(part + 1)[s];
        while (computed.load(std::memory_order_acquire) < stop) std::this_thread::yield();
        if (work_.whole(stage.slot)) return;
        const View out = view(stage.value, stage.slot, thread);
        const ptrdiff_t row = out.channels * out.plane;
        const float* edge = work_.edge(segment, part + 1, index);
        const int64_t begin = work_.schedules[segment].start(part + 1, s);
        for (int64_t y = first; y < stop; ++y) {
            std::copy_n(edge + (y - begin) * row, row, out.data + out.row_at(y));
        }
    }

    void moments(size_t index) {
        const Stage& stage = work_.stages.all[index];
        if (idle(stage)) return;
        const View in = view(stage.reads[0].value, stage.reads[0].slot, 0);
        const View out = view(stage.value, stage.slot, 0);
        const Step step{&program_.operations[stage.index], nullptr, level_, program_.kernels, in, {}, out, nullptr};
        const uint32_t* mask = work_.masks[stage.index].get();
        pool_.each(in.channels, [&](int64_t first, int64_t stop, int thread) {
            const auto started = std::chrono::steady_clock::now();
            for (int64_t channel = first; channel < stop; ++channel) {
                out.data[channel * out.plane] = moment(step, channel, mask);
            }
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
            seconds(stage, thread) += took.count();
        });
    }

    const Program& program_;
    Workspace& work_;
    Pool& pool_;
    const float* const* inputs_;
    float* const* outputs_;
    int level_;
    int64_t number_ = 0;
};

std::unique_ptr<Workspace> borrow(Program& program, int threads) {
    std::unique_ptr<Workspace> found;
    {
        const std::lock_guard<std::mutex> lock(program.guard);
        for (auto& idle : program.idle) {
            if (idle->threads == threads) {
                found = std::move(idle);
                idle = std::move(program.idle.back());
                program.idle.pop_back();
                break;
            }
        }
    }
    return found ? std::move(found) : std::make_unique<Workspace>(program, threads);
}

void give_back(Program& program, std::unique_ptr<Workspace> workspace) {
    const std::lock_guard<std::mutex> lock(program.guard);
    if (program.idle.size() < kMostIdle) program.idle.push_back(std::move(workspace));
}

}  // namespace

void run_program(Program& program, const float* const* inputs, int64_t batch,
                 const std::vector<Shape>& sizes, float* const* outputs, int threads, int level,
                 double* seconds) {
    if (threads < 1 || threads > kMostThreads) throw Error("threads: give a number from 1 to 1024");
    if (level < 0 || static_cast<uint32_t>(level) >= program.levels) {
        throw Error("there is no level " + std::to_string(level) + "; give one from 0 to " +
                    std::to_string(program.levels - 1));
    }
    if (batch < 0) throw Error("the batch is negative");
    if (batch == 0) return;
    std::unique_ptr<Workspace> workspace = borrow(program, threads);
    workspace->fit(program, sizes);
    std::fill(workspace->seconds.begin(), workspace->seconds.end(), 0.0);
    const BorrowedPool pool(threads);
    Execution execution(program, *workspace, *pool, inputs, outputs, level);
    for (int64_t i = 0; i < batch; ++i) execution.image(i);
    const size_t operations = program.operations.size();
    for (size_t i = 0; seconds != nullptr && i < workspace->seconds.size(); ++i) {
        seconds[i % operations] += workspace->seconds[i] / threads;
    }
    give_back(program, std::move(workspace));
}

}  // namespace nmk
