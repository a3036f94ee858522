// A program, images and threads -> the outputs, operation by operation, rows in parallel.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "spatial.h"
#include "workspace.h"

namespace nmk {

namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kMostIdle = 16;

ActivationSpec activation_of(const Operation& operation) {
    const OperationRecord& record = operation.record;
    return {record.activation, record.scalars[kLow], record.scalars[kHigh], operation.slopes()};
}

class Execution {
public:
    Execution(const Program& program, Workspace& workspace)
        : program_(program), work_(workspace), lanes_(program.kernels->lanes) {}

    void image(const float* const* inputs, float* const* outputs, int64_t number, double* seconds) {
        for (uint32_t i = 0; i < program_.inputs; ++i) {
            const View to = view(i);
            const float* from = inputs[i] + number * to.channels * to.height * to.width;
            rows(to, [&](int64_t a, int64_t b) { to_strips(from, to, lanes_, a, b); });
        }
        for (size_t i = 0; i < program_.operations.size(); ++i) {
            const auto started = std::chrono::steady_clock::now();
            step(i);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
            if (seconds != nullptr) seconds[i] += took.count();
        }
        for (size_t i = 0; i < program_.outputs.size(); ++i) {
            const View from = view(program_.outputs[i]);
            float* to = outputs[i] + number * from.channels * from.height * from.width;
            rows(from, [&](int64_t a, int64_t b) { from_strips(from, to, lanes_, a, b); });
        }
    }

private:
    View view(uint32_t value) const { return work_.view(program_, value); }

    template <class Body>
    void rows(const View& out, const Body& body) {
        work_.pool.each(out.height, [&](int64_t first, int64_t stop, int) { body(first, stop); });
    }

    void step(size_t index) {
        const Operation& operation = program_.operations[index];
        const View in = view(operation.record.inputs[0]), out = view(operation.record.output);
        const int factor = operation.param(0);
        switch (operation.kind()) {
            case Kind::conv2d: convolve(operation, work_.plans[index], in, out); break;
            case Kind::pointwise: pointwise(operation, in, out); break;
            case Kind::pixel_shuffle:
                rows(out, [&](int64_t a, int64_t b) { pixel_shuffle(in, out, factor, lanes_, a, b); });
                break;
            case Kind::nearest:
                rows(out, [&](int64_t a, int64_t b) { nearest(in, out, factor, lanes_, a, b); });
                break;
            case Kind::bilinear:
                rows(out, [&](int64_t a, int64_t b) { bilinear(in, out, factor != 0, lanes_, a, b); });
                break;
            case Kind::max_pool:
                rows(out, [&](int64_t a, int64_t b) {
                    max_pool(in, out, operation.record.params, lanes_, a, b);
                });
                break;
            case Kind::moments: moments(operation, work_.masks[index].get(), in, out); break;
        }
    }

    void convolve(const Operation& operation, const ConvPlan& plan, const View& in, const View& out) {
        const OperationRecord& record = operation.record;
        const float* bias = operation.values[kBias].empty() ? nullptr : operation.values[kBias].data();
        const Epilogue epilogue{bias, activation_of(operation), record.scalars[kAlpha],
                                record.params[kResidual]};
        const ConvRun run{operation.conv.get(), &plan, program_.kernels, in, out,
                          view(record.inputs[1]), epilogue};
        const int64_t pairs = (out.height + kTileRows - 1) / kTileRows;
        work_.pool.each(pairs, [&](int64_t first, int64_t stop, int thread) {
            run_conv(run, first, stop, work_.scratch(thread));
        });
    }

    void pointwise(const Operation& operation, const View& in, const View& out) {
        const View second = view(operation.record.inputs[1]);
        work_.pool.each(out.channels * out.height, [&](int64_t first, int64_t stop, int) {
            for (int64_t i = first; i < stop; ++i) {
                pointwise_row(operation, in, second, out, i / out.height, i % out.height);
            }
        });
    }

    void pointwise_row(const Operation& operation, const View& in, const View& second, const View& out,
                       int64_t channel, int64_t y) const {
        const OperationRecord& record = operation.record;
        const auto mode = static_cast<Pointwise>(record.params[0]);
        const auto at = static_cast<size_t>(channel);
        PointwiseJob job{};
        job.mode = record.params[0];
        job.x = in.data + channel * in.plane + y * in.row;
        job.y = out.data + channel * out.plane + y * out.row;
        job.count = out.plane;
        job.scale = record.scalars[kAlpha], job.shift = record.scalars[kBeta];
        job.activation = activation_of(operation);
        job.slope_of_channel =
            operation.slopes() != nullptr ? operation.slopes()[at] : record.scalars[kSlope];
        if (mode == Pointwise::affine) {
            job.scale = operation.values[0].empty() ? job.scale : operation.values[0][at];
            job.shift = operation.values[1].empty() ? job.shift : operation.values[1][at];
        } else if (mode == Pointwise::gate) {
            job.scale = second.data[channel * second.plane], job.shift = 0.0f;
        } else if (mode == Pointwise::gate_sum) {
            job.shift *= second.data[channel * second.plane];
        } else {
            job.z = second.data + channel * second.plane + y * second.row;
        }
        program_.kernels->pointwise(job);
    }

    // The mean in two passes: sums of a large image in fp32 would lose what a variance is made of.
    void moments(const Operation& operation, const uint32_t* mask, const View& in, const View& out) {
        work_.pool.each(in.channels, [&](int64_t first, int64_t stop, int) {
            for (int64_t channel = first; channel < stop; ++channel) {
                out.data[channel * out.plane] = moment(operation, in, channel, mask);
            }
        });
    }

    float moment(const Operation& operation, const View& in, int64_t channel, const uint32_t* mask) const {
        const auto pixels = static_cast<double>(in.height * in.width);
        double sum = 0.0, squares = 0.0;
        const auto pass = [&](float centre) {
            sum = squares = 0.0;
            for (int64_t y = 0; y < in.height; ++y) {
                const float* row = in.data + channel * in.plane + y * in.row;
                program_.kernels->moments(row, mask, in.plane, centre, &sum, &squares);
            }
        };
        pass(0.0f);
        const auto mean = static_cast<float>(sum / pixels);
        if (operation.param(0) == 0) return mean;
        pass(mean);
        const double left = squares - sum * sum / pixels;
        return static_cast<float>(std::sqrt(std::max(left, 0.0) / (pixels - operation.param(1))));
    }

    const Program& program_;
    Workspace& work_;
    int lanes_;
};

std::unique_ptr<Workspace> borrow(Program& program, int threads) {
    std::unique_ptr<Workspace> found;
    {
        const std::lock_guard<std::mutex> lock(program.guard);
        for (auto& idle : program.idle) {
            if (idle->process == getpid() && idle->pool.threads() == threads) {
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
                 const std::vector<Shape>& sizes, float* const* outputs, int threads,
                 double* seconds) {
    if (threads < 1 || threads > kMostThreads) throw Error("threads: give a number from 1 to 1024");
    if (batch < 0) throw Error("the batch is negative");
    if (batch == 0) return;
    std::unique_ptr<Workspace> workspace = borrow(program, threads);
    workspace->fit(program, sizes);
    Execution execution(program, *workspace);
    for (int64_t i = 0; i < batch; ++i) execution.image(inputs, outputs, i, seconds);
    give_back(program, std::move(workspace));
}

}  // namespace nmk
