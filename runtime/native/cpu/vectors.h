// Compiler vectors of NMK_LANES floats -> loads, stores, activations; included once for each ISA.
//
// Everything lies in NMK_SPACE and nothing of the standard library's templates is used: code that is
// compiled for one ISA must never be merged by the linker with code compiled for another.
#ifndef NMK_LANES
#error "define NMK_LANES and NMK_SPACE first"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "format.h"
#include "kernels.h"

namespace nmk {
namespace NMK_SPACE {

constexpr int L = NMK_LANES;
using Vec = float __attribute__((vector_size(4 * L)));
using Bits = int32_t __attribute__((vector_size(4 * L)));
using Loose = float __attribute__((vector_size(4 * L), aligned(4)));

inline __attribute__((always_inline)) Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline __attribute__((always_inline)) Vec load_loose(const float* p) {
    return *reinterpret_cast<const Loose*>(p);
}
inline __attribute__((always_inline)) void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline __attribute__((always_inline)) Vec spread(float value) { return value - Vec{}; }
inline __attribute__((always_inline)) Vec masked(Vec v, const uint32_t* mask) {
    return reinterpret_cast<Vec>(reinterpret_cast<Bits>(v) & *reinterpret_cast<const Bits*>(mask));
}
// A comparison with NaN is false, so that NaN comes through as torch's relu and clamp let it.
inline Vec at_least(Vec v, Vec low) { return v < low ? low : v; }
inline Vec at_most(Vec v, Vec high) { return v > high ? high : v; }

// e^x to about 1e-7 relative: 2^n * polynomial(x - n ln 2), x held where that does not overflow.
inline Vec exponential(Vec x) {
    x = at_most(at_least(x, spread(-87.0f)), spread(88.0f));
    const Vec magic = spread(12582912.0f);  // adding 1.5 * 2^23 rounds to a whole number
    const Vec n = (x * 1.44269504f + magic) - magic;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = spread(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Bits power = (__builtin_convertvector(n, Bits) + 127) << 23;
    return p * reinterpret_cast<Vec>(power);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }
inline Vec hyperbolic_tangent(Vec x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// erf by Abramowitz and Stegun 7.1.26, 1.5e-7 absolute.
inline Vec error_function(Vec x) {
    const Vec size = x < 0.0f ? -x : x;
    const Vec t = 1.0f / (1.0f + 0.3275911f * size);
    Vec p = spread(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Vec y = 1.0f - p * t * exponential(-size * size);
    return x < 0.0f ? -y : y;
}

// e^x - 1 for x <= 0, by its series near 0 where the difference would lose all digits.
inline Vec exponential_less_one(Vec x) {
    Vec p = spread(1.0f / 720.0f);
    p = p * x + 1.0f / 120.0f;
    p = p * x + 1.0f / 24.0f;
    p = p * x + 1.0f / 6.0f;
    p = p * x + 0.5f;
    p = p * x + 1.0f;
    return x > -0.25f ? p * x : exponential(x) - 1.0f;
}

// x * tanh(ln(1 + e^x)) = x * n / (n + 2) with n = e^x (e^x + 2), which is x itself from 20 on.
inline Vec mish(Vec x) {
    const Vec e = exponential(at_most(x, spread(20.0f)));
    const Vec n = e * (e + 2.0f);
    return x * n / (n + 2.0f);
}

inline Vec square_root(Vec x) {
    Vec result{};
    for (int lane = 0; lane < L; ++lane) result[lane] = __builtin_sqrtf(x[lane]);
    return result;
}

inline Vec activate(Vec v, const ActivationSpec& spec, float slope) {
    switch (static_cast<Activation>(spec.kind)) {
        case Activation::relu: return at_least(v, Vec{});
        case Activation::leaky_relu:
        case Activation::prelu: return v < 0.0f ? v * slope : v;
        case Activation::silu: return v * sigmoid(v);
        case Activation::sigmoid: return sigmoid(v);
        case Activation::gelu: return 0.5f * v * (1.0f + error_function(v * 0.70710678f));
        case Activation::gelu_tanh:
            return 0.5f * v * (1.0f + hyperbolic_tangent(0.79788456f * (v + 0.044715f * v * v * v)));
        case Activation::tanh: return hyperbolic_tangent(v);
        case Activation::clamp: return at_most(at_least(v, spread(spec.a)), spread(spec.b));
        case Activation::elu: return v < 0.0f ? slope * exponential_less_one(v) : v;
        case Activation::mish: return mish(v);
        case Activation::hard_swish: return v * at_most(at_least(v + 3.0f, Vec{}), spread(6.0f)) / 6.0f;
        case Activation::square_root: return square_root(v);
        default: return v;
    }
}

}  // namespace NMK_SPACE
}  // namespace nmk
