// Vectors of 32 halves -> the fp16 kernel; in plain C++, rounded alike, where NMK_FP16 is not defined.
//
// A vector of the packed tile keeps its place, but holds halves: the 16 pixels of its own row and, above them,
// those of the row under it. So one FMA serves both rows of a tile. Sums are halves for a few terms only, then
// go on in fp32. Included after family.h.

namespace nmk {
namespace NMK_SPACE {

static_assert(L == 16 && R == 2, "a vector holds two rows of sixteen halves");

// Terms of one sum of halves. Rounding to 11 bits at every term loses about 0.28 sqrt(terms) / 2048 of the sum,
// 0.08 % here, beside 0.03 % for rounding inputs and weights; bf16 loses 0.26 %.
constexpr int kHalfTerms = 32;

#ifdef NMK_FP16

using Half = __m512h;

inline __attribute__((always_inline)) Half load_halves(const float* p) { return _mm512_load_ph(p); }
inline __attribute__((always_inline)) Half spread_word(uint32_t word) {
    return _mm512_castsi512_ph(_mm512_set1_epi32(static_cast<int>(word)));
}
inline __attribute__((always_inline)) Half fused(Half a, Half b, Half sum) { return _mm512_fmadd_ph(a, b, sum); }
inline __attribute__((always_inline)) Half added(Half a, Half b) { return _mm512_add_ph(a, b); }
// Under masks of ones: gcc 12 warns of its own headers in the plain forms.
inline __attribute__((always_inline)) Vec own_row(Half h) {
    const __m512i all = _mm512_castph_si512(h);
    return (Vec)_mm512_maskz_cvtph_ps(0xffff, __builtin_shufflevector(all, all, 0, 1, 2, 3));
}
inline __attribute__((always_inline)) Vec row_below(Half h) {
    const __m512i all = _mm512_castph_si512(h);
    return (Vec)_mm512_maskz_cvtph_ps(0xffff, __builtin_shufflevector(all, all, 4, 5, 6, 7));
}
inline __attribute__((always_inline)) void store_halves(float* p, Vec v) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, (__m512)v, nearest));
}

#else

// Each lane is a half's value, held as a float.
struct Half {
    float lane[2 * L] = {};
};

// To nearest, ties to even, of what is exact in `value`. Adding and taking away 1.5 * 2^52 times the spacing of
// halves of that size rounds it.
inline float nearest_half(double value) {
    if (__builtin_fabs(value) >= 65520.0) return value > 0.0 ? __builtin_inff() : -__builtin_inff();
    if (value != value) return __builtin_nanf("");
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    uint64_t exponent = bits >> 52 & 0x7ffu;
    exponent = (exponent < 1023 - 14 ? 1023 - 14 : exponent) + 52 - 10;
    bits = exponent << 52 | uint64_t{1} << 51;
    double magic;
    std::memcpy(&magic, &bits, sizeof magic);
    return static_cast<float>((value + magic) - magic);
}

inline float half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31 && fraction != 0) return __builtin_nanf("");
    const float size = exponent == 31 ? __builtin_inff()
                                      : __builtin_ldexpf(static_cast<float>(exponent == 0 ? fraction : fraction + 1024),
                                                         (exponent == 0 ? 1 : exponent) - 25);
    return bits >> 15 != 0 ? -size : size;
}

inline uint16_t half_bits(float value) {
    const float near = nearest_half(static_cast<double>(value));
    uint32_t bits;
    std::memcpy(&bits, &near, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (size == 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (size >= 0x38800000u) return static_cast<uint16_t>(sign | (size - 0x38000000u) >> 13);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(__builtin_fabsf(near) * 16777216.0f));
}

inline Half load_halves(const float* p) {
    uint16_t bits[2 * L];
    std::memcpy(bits, p, sizeof bits);
    Half found;
    for (int i = 0; i < 2 * L; ++i) found.lane[i] = half_value(bits[i]);
    return found;
}
inline Half spread_word(uint32_t word) {
    Half found;
    for (int i = 0; i < 2 * L; ++i) found.lane[i] = half_value(static_cast<uint16_t>(word));
    return found;
}
// In double the product is exact, and so is the sum wherever it is near enough to a tie to matter.
inline Half fused(const Half& a, const Half& b, const Half& sum) {
    Half found;
    for (int i = 0; i < 2 * L; ++i) {
        const double product = static_cast<double>(a.lane[i]) * static_cast<double>(b.lane[i]);
        found.lane[i] = nearest_half(product + static_cast<double>(sum.lane[i]));
    }
    return found;
}
inline Half added(const Half& a, const Half& b) {
    Half found;
    for (int i = 0; i < 2 * L; ++i) {
        found.lane[i] = nearest_half(static_cast<double>(a.lane[i]) + static_cast<double>(b.lane[i]));
    }
    return found;
}
inline Vec own_row(const Half& h) {
    Vec found{};
    for (int i = 0; i < L; ++i) found[i] = h.lane[i];
    return found;
}
inline Vec row_below(const Half& h) {
    Vec found{};
    for (int i = 0; i < L; ++i) found[i] = h.lane[L + i];
    return found;
}
inline void store_halves(float* p, Vec v) {
    uint16_t bits[L];
    for (int i = 0; i < L; ++i) bits[i] = half_bits(v[i]);
    std::memcpy(p, bits, sizeof bits);
}

#endif

// As pack, each row to two places: its own and, as the lower of two rows, that of the row above it.
void pack_halves(const PackJob& job) {
    for (int channel = 0; channel < job.channels; ++channel) {
        const float* source = job.source + channel * job.source_channel;
        float* tile = job.tile + channel * job.tile_channel;
        for (int i = 0; i < job.row_count; ++i) {
            const bool lowest = job.tile_rows[i] == 0;
            const auto put = [&, own = tile + job.tile_rows[i]](int vector, Vec v) {
                store_halves(own + vector * L, v);
                if (!lowest) store_halves(own - job.row_floats + vector * L + L / 2, v);
            };
            const ptrdiff_t row = job.source_rows[i];
            if (row < 0) {
                for (int at = 0; at * L < job.row_floats; ++at) put(at, Vec{});
                continue;
            }
            for (int r = 0; r < job.run_count; ++r) {
                const Run& run = job.runs[r];
                for (int v = 0; v < run.count; ++v) put(run.target + v, one_run(source + row, run, v));
            }
        }
    }
}

template <int P>
inline __attribute__((always_inline)) void add_term(Half* sum, const float* tile, const Tap& tap) {
    uint32_t word;
    std::memcpy(&word, &tap.weight, sizeof word);
    const Half weight = spread_word(word);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = fused(weight, load_halves(tile + tap.offset + p * L), sum[p]);
}

// One output channel over one block of input channels: a broadcast and P FMAs a weight, for both rows. Two
// sums in turn, since P alone would wait for each other.
struct HalfTaps {
    template <int P>
    static inline __attribute__((always_inline)) void add(float* partial, const float* tile, ptrdiff_t,
                                                          const Tap* tap, const Tap* end, bool fresh) {
        Vec sum[R * P];
#pragma GCC unroll 16
        for (int i = 0; i < R * P; ++i) sum[i] = fresh ? Vec{} : load(partial + i * L);
        while (tap != end) {
            const Tap* stop = end - tap > 2 * kHalfTerms ? tap + 2 * kHalfTerms : end;
            Half even[P] = {}, odd[P] = {};
            for (; stop - tap >= 2; tap += 2) {
                add_term<P>(even, tile, tap[0]);
                add_term<P>(odd, tile, tap[1]);
            }
            if (tap != stop) add_term<P>(even, tile, *tap++);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p) {
                const Half both = added(even[p], odd[p]);
                sum[p] += own_row(both);
                sum[P + p] += row_below(both);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < R * P; ++i) store(partial + i * L, sum[i]);
    }
};

void conv_halves(const TileJob& job) { conv_taps<HalfTaps>(job); }

}  // namespace NMK_SPACE
}  // namespace nmk
