// Weights of a 3x3 convolution -> their values at Winograd's points, and which inputs they keep.

#include "winograd_weights.h"

#include <algorithm>

namespace nmk {

namespace {

constexpr int kSpots = kWinogradSide * kWinogradSide;

// G g, a row of G for each point t: (1, t, t^2) over the product of its distances to the others.
void spread_three(const double* g, ptrdiff_t step, double* out, ptrdiff_t out_step) {
    constexpr double a = kWinogradNear, b = kWinogradFar;
    constexpr double points[] = {0.0, a, -a, b, -b};
    for (int i = 0; i < 5; ++i) {
        double apart = 1.0;
        for (int j = 0; j < 5; ++j) apart *= i == j ? 1.0 : points[i] - points[j];
        const double t = points[i];
        out[i * out_step] = (g[0] + t * g[step] + t * t * g[2 * step]) / apart;
    }
    out[5 * out_step] = g[2 * step];
}

void spread_kernel(const float* weight, double* out) {
    double g[9], upright[kWinogradSide * 3];
    for (int i = 0; i < 9; ++i) g[i] = static_cast<double>(weight[i]);
    for (int x = 0; x < 3; ++x) spread_three(g + x, 3, upright + x, 3);
    for (int u = 0; u < kWinogradSide; ++u) spread_three(upright + 3 * u, 1, out + kWinogradSide * u, 1);
}

}  // namespace

std::vector<std::vector<int>> kept_inputs(const Conv& conv, const float* weights, int group) {
    const ptrdiff_t taps = static_cast<ptrdiff_t>(conv.kernel_y) * conv.kernel_x;
    std::vector<std::vector<int>> lists(static_cast<size_t>((conv.outputs + group - 1) / group));
    for (int first = 0; first < conv.outputs; first += group) {
        const int stop = std::min(first + group, conv.outputs);
        for (int in = 0; in < conv.inputs; ++in) {
            bool any = false;
            for (int out = first; out < stop; ++out) {
                const float* w = weights + (static_cast<ptrdiff_t>(out) * conv.inputs + in) * taps;
                any = any || std::any_of(w, w + taps, [](float value) { return value != 0.0f; });
            }
            if (any) lists[static_cast<size_t>(first / group)].push_back(in);
        }
    }
    return lists;
}

void set_winograd(const Conv& conv, Part& part, const float* weights, int group) {
    const std::vector<std::vector<int>> lists = kept_inputs(conv, weights, group);
    std::vector<uint32_t> places(static_cast<size_t>(conv.inputs));
    for (int in = 0; in < conv.inputs; ++in) {
        const auto keeps = [in](const std::vector<int>& list) {
            return std::binary_search(list.begin(), list.end(), in);
        };
        places[static_cast<size_t>(in)] = static_cast<uint32_t>(part.used.size());
        if (std::any_of(lists.begin(), lists.end(), keeps)) part.used.push_back(in);
    }
    size_t total = 0;
    for (const std::vector<int>& list : lists) total += list.size();
    part.weights = aligned<float>(total * static_cast<size_t>(kSpots * group));
    float* to = part.weights.get();
    double spread[kSpots];
    for (int first = 0; first < conv.outputs; first += group) {
        const std::vector<int>& list = lists[static_cast<size_t>(first / group)];
        const auto count = static_cast<ptrdiff_t>(list.size());
        for (ptrdiff_t i = 0; i < count; ++i) {
            const int in = list[static_cast<size_t>(i)];
            part.kept.push_back(places[static_cast<size_t>(in)]);
            for (int out = first; out < std::min(first + group, conv.outputs); ++out) {
                spread_kernel(weights + (static_cast<ptrdiff_t>(out) * conv.inputs + in) * 9, spread);
                for (ptrdiff_t spot = 0; spot < kSpots; ++spot) {
                    to[(spot * count + i) * group + out - first] = static_cast<float>(spread[spot]);
                }
            }
        }
        part.counts.push_back(static_cast<uint32_t>(count));
        to += kSpots * count * group;
    }
}

}  // namespace nmk
