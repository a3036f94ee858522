// Weights of a 3x3 convolution -> their values at Winograd's points.

#include "winograd_weights.h"

#include "conv.h"

namespace nmk {

namespace {

constexpr int kSpots = kWinogradSide * kWinogradSide;

int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

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

bool winograd_pays(int inputs, int outputs, const Kernels& kernels) {
    const int64_t padded = round_up(outputs, kernels.winograd_group);
    const int64_t direct = int64_t{9} * inputs * round_up(outputs, kernels.dense_group);
    // A channel's transform takes about as long as 20 products a pixel going in, 16 coming out.
    const int64_t winograd = 9 * inputs * padded / 4 + int64_t{20} * inputs + int64_t{16} * outputs;
    return winograd < direct;
}

void set_winograd(const Conv& conv, Aligned<float>& to, const float* weights, int group) {
    to = aligned<float>(static_cast<size_t>(round_up(conv.outputs, group)) *
                        static_cast<size_t>(conv.inputs) * kSpots);
    double spread[kSpots];
    for (int out = 0; out < conv.outputs; ++out) {
        float* block = to.get() + static_cast<ptrdiff_t>(out / group) * kSpots * conv.inputs * group;
        for (int in = 0; in < conv.inputs; ++in) {
            spread_kernel(weights + (static_cast<ptrdiff_t>(out) * conv.inputs + in) * 9, spread);
            for (int spot = 0; spot < kSpots; ++spot) {
                block[(static_cast<ptrdiff_t>(spot) * conv.inputs + in) * group + out % group] =
                    static_cast<float>(spread[spot]);
            }
        }
    }
}

}  // namespace nmk
