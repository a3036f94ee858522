// One operation, its views and some rows -> the kernel calls that compute them.

#include "steps.h"

#include <algorithm>
#include <cmath>

#include "spatial.h"

namespace nmk {

namespace {

ActivationSpec activation_of(const Operation& operation) {
    const OperationRecord& record = operation.record;
    return {record.activation, record.scalars[kLow], record.scalars[kHigh], operation.slopes()};
}

bool keeps_nothing(const Conv& conv) {
    return conv.method == Method::sparse &&
           std::all_of(conv.parts.begin(), conv.parts.end(), [](const Part& part) { return part.taps.empty(); });
}

// A residual and the bias: what a skipped end of its branch gives.
void pass_on(const Step& step, const Conv& conv, const float* bias, Rows rows) {
    const bool all = conv.places.empty();
    const auto count = all ? step.output.channels : static_cast<int64_t>(conv.places.size());
    rows.each(count, [&](int64_t index, int64_t y) {
        const int64_t channel = all ? index : conv.places[static_cast<size_t>(index)];
        PointwiseJob job{};
        job.mode = static_cast<int32_t>(Pointwise::affine);
        job.x = step.second.data + channel * step.second.plane + step.second.row_at(y);
        job.y = step.output.data + channel * step.output.plane + step.output.row_at(y);
        job.count = step.output.plane;
        job.scale = 1.0f;
        job.shift = bias == nullptr ? 0.0f : step.operation->record.scalars[kAlpha] * bias[channel];
        step.kernels->pointwise(job);
    });
}

void convolve(const Step& step, Rows rows) {
    const Operation& operation = *step.operation;
    const OperationRecord& record = operation.record;
    const size_t packing = operation.served[static_cast<size_t>(step.level)];
    const Conv& conv = operation.convs[packing];
    const std::vector<float>& added = conv.bias.empty() ? operation.values[kBias] : conv.bias;
    const float* bias = added.empty() ? nullptr : added.data();
    const Epilogue epilogue{bias, activation_of(operation), record.scalars[kAlpha], record.params[kResidual]};
    if (adds_residual(record) && keeps_nothing(conv)) {
        pass_on(step, conv, bias, rows);
        return;
    }
    const ConvRun run{&conv, step.plans + packing, step.kernels, step.input,
                      step.output, step.second, epilogue};
    run_conv(run, rows, step.scratch);
}

// A row of an input in the strips of the output: as it is, or brought into them in `space`.
const float* lined_up(const Step& step, const View& from, int64_t channel, int64_t y, float* space) {
    const float* row = from.data + channel * from.plane + from.row_at(y);
    if (from.strip == step.output.strip) return row;
    restrip(row, from.strip, space, step.output.strip, from.width, step.kernels->lanes);
    return space;
}

void pointwise_row(const Step& step, int64_t channel, int64_t y) {
    const Operation& operation = *step.operation;
    const View &in = step.input, &second = step.second, &out = step.output;
    const OperationRecord& record = operation.record;
    const auto mode = static_cast<Pointwise>(record.params[0]);
    const auto at = static_cast<size_t>(channel);
    PointwiseJob job{};
    job.mode = record.params[0];
    job.x = lined_up(step, in, channel, y, step.scratch);
    job.y = out.data + channel * out.plane + out.row_at(y);
    job.count = out.plane;
    job.scale = record.scalars[kAlpha], job.shift = record.scalars[kBeta];
    job.activation = activation_of(operation);
    job.slope_of_channel = operation.slopes() != nullptr ? operation.slopes()[at] : record.scalars[kSlope];
    if (mode == Pointwise::affine) {
        job.scale = operation.values[0].empty() ? job.scale : operation.values[0][at];
        job.shift = operation.values[1].empty() ? job.shift : operation.values[1][at];
    } else if (mode == Pointwise::gate) {
        job.scale = second.data[channel * second.plane], job.shift = 0.0f;
    } else if (mode == Pointwise::gate_sum) {
        job.shift *= second.data[channel * second.plane];
    } else {
        const int64_t own = second.channels == 1 ? 0 : channel;
        job.z = lined_up(step, second, own, y, step.scratch + out.plane);
    }
    step.kernels->pointwise(job);
}

}  // namespace

void compute_rows(const Step& step, Rows rows) {
    const OperationRecord& record = step.operation->record;
    const int lanes = step.kernels->lanes, factor = record.params[0];
    switch (step.operation->kind()) {
        case Kind::conv2d: convolve(step, rows); break;
        case Kind::pointwise:
            rows.each(step.output.channels, [&](int64_t channel, int64_t y) { pointwise_row(step, channel, y); });
            break;
        case Kind::pixel_shuffle: pixel_shuffle(step.input, step.output, factor, record.params[1] != 0, lanes, rows); break;
        case Kind::nearest: nearest(step.input, step.output, factor, lanes, rows); break;
        case Kind::bilinear: bilinear(step.input, step.output, factor != 0, lanes, rows, step.scratch); break;
        case Kind::max_pool: max_pool(step.input, step.output, record.params, lanes, rows); break;
        case Kind::pad: pad(step.input, step.output, record.params, lanes, rows, step.scratch); break;
        case Kind::moments: break;
    }
}

// Deviations are taken from about the mean, that of the first rows: sums of squares of a large image in fp32 would
// lose what a variance is made of.
float moment(const Step& step, int64_t channel, const uint32_t* mask) {
    const View& in = step.input;
    const bool deviation = step.operation->param(0) != 0;
    MomentsJob job{in.data + channel * in.plane, in.row, in.plane, in.height, mask};
    float centre = 0.0f;
    double sum = 0.0, squares = 0.0;
    if (deviation) {
        job.rows = std::min<int64_t>(in.height, 16);
        step.kernels->moments(job, 0.0f, &sum, &squares);
        centre = static_cast<float>(sum / static_cast<double>(job.rows * in.width));
        job.rows = in.height, sum = squares = 0.0;
    }
    step.kernels->moments(job, centre, &sum, &squares);
    const auto pixels = static_cast<double>(in.height * in.width);
    if (!deviation) return static_cast<float>(sum / pixels);
    const double left = squares - sum * sum / pixels;
    return static_cast<float>(std::sqrt(std::max(left, 0.0) / (pixels - step.operation->param(1))));
}

}  // namespace nmk
