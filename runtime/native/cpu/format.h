// The bytes of a packed program: header, buffers, values, operations, then data. Little endian.
//
// Offsets inside data are in bytes and multiples of 4. Nothing here is trusted: see load.cpp.
#ifndef NMK_FORMAT_H
#define NMK_FORMAT_H

#include <cstdint>

namespace nmk {

constexpr uint32_t kMagic = 0x504b4d4e;  // "NMKP"
constexpr uint32_t kFormatVersion = 5;
constexpr uint32_t kNone = 0xffffffffu;
constexpr uint32_t kMostLevels = 8;

// Families of kernels, each including those before it; a program made for one was timed with it.
enum class Isa : uint32_t { best, portable, avx2, avx512, avx512_bf16, avx512_fp16, amx };

struct HeaderRecord {
    uint32_t magic, version;
    uint64_t bytes;  // of the whole program, this header included
    uint32_t buffers, values, operations, inputs, outputs;
    uint32_t isa;  // Isa: the most that its kernels may use
    uint32_t levels;  // 1 or more, at most kMostLevels: a lower one keeps some of the weights of the next
    uint32_t zero;
    // Then: u32 channels for each buffer, a ValueRecord for each value (the inputs first), a u32
    // value for each output, an OperationRecord for each operation, zeros up to a multiple of 64.
};

// Some consecutive channels of a buffer, so that concatenations and splits move no data.
struct ValueRecord {
    uint32_t buffer, first, channels;
};

struct Extent {
    uint64_t offset, bytes;
};

struct OperationRecord {
    uint32_t kind;        // Kind
    uint32_t inputs[2];   // values, or kNone
    uint32_t output;      // value
    uint32_t activation;  // Activation, applied last but for a residual that follows it
    uint32_t shuffle;     // conv2d: factor of a pixel shuffle of its result, of which output has the channels; else 1
    int32_t params[14];
    float scalars[4];
    Extent data[5];
};

enum class Kind : uint32_t { conv2d, pointwise, pixel_shuffle, nearest, bilinear, max_pool, moments, pad };

enum class Activation : uint32_t {
    none, relu, leaky_relu, prelu, silu, sigmoid, gelu, gelu_tanh, tanh, clamp,
    elu, mish, hard_swish, square_root,
};

// conv2d: y = alpha * act(conv(x) + bias [+ r]) [+ r]; r is the second input.
enum ConvParam {
    kKernelY, kKernelX, kStrideY, kStrideX, kDilationY, kDilationX,
    kPadLeft, kPadRight, kPadTop, kPadBottom, kGroups, kResidual, kFamily, kPrecision,
};
enum class Residual : int32_t { none, before, after };
enum class Family : int32_t { dense, sparse, shared };
// bf16 and fp16 are permissions: kernels that gain nothing by them compute in fp32.
enum class Precision : int32_t { f32, bf16, fp16 };
// Dense weights are [out][in/groups][kh][kw]; sparse ones are a bit for each of those (lowest bit
// first) and the values of the set bits. Shared ones are the same, many outputs keeping the same.
// Levels are a byte, what one bit stands for, and, from the last but one down to the first, a bit for
// each of the weights that the level above keeps; the last keeps all but zeros. Weights that share
// a level over outputs, positions of the kernel or both have one bit together. Without levels a
// convolution is the same at all of them.
enum ConvData { kWeights, kMask, kBias, kSlopes, kLevels };
enum Shared : uint8_t { kOverOutputs = 1, kOverPositions = 2 };

// pointwise: y = act(...) by params[0]. A gate has one value a channel (height and width 1).
enum class Pointwise : int32_t {
    affine,    // x * data[0][c] + data[1][c]
    sum,       // scalars[2] * x + scalars[3] * z; z has the channels of x or one, here and below
    product,   // x * z
    gate,      // x * gate[c]
    gate_sum,  // scalars[2] * x + scalars[3] * gate[c]
    quotient,  // x / z
};

// scalars of every operation with an activation: slope, or lowest and highest.
enum Scalar { kSlope = 0, kLow = 0, kHigh = 1, kAlpha = 2, kBeta = 3 };

// Whether a convolution that keeps nothing gives its residual and alpha * bias.
inline bool adds_residual(const OperationRecord& record) {
    const auto residual = static_cast<Residual>(record.params[kResidual]);
    return record.activation == static_cast<uint32_t>(Activation::none) && residual != Residual::none &&
           (residual == Residual::after || record.scalars[kAlpha] == 1.0f);
}

// max_pool uses ConvParam's kernel, stride and padding; pixel_shuffle and nearest have their factor
// in params[0]; bilinear has align_corners there and takes its size from its second input, or is
// params[1] times as large if there is none; moments has 0 (mean) or 1 (standard deviation) in
// params[0], and the correction in params[1].

// pad: rows and columns around the image, or off it where they are negative; params[4] says what
// stands there. A reflection leaves out the edge itself.
enum PadParam { kLeft, kRight, kTop, kBottom, kBorder };
enum class Border : int32_t { zeros, reflect, replicate };

}  // namespace nmk

#endif  // NMK_FORMAT_H
