// A validated program as it is held in memory: buffers, values, operations with prepared weights.
#ifndef NMK_PROGRAM_H
#define NMK_PROGRAM_H

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "conv.h"
#include "format.h"
#include "kernels.h"
#include "levels.h"

namespace nmk {

// What is wrong with a program or a call; becomes the text that the caller of the C ABI reads.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Operation {
    OperationRecord record;
    std::vector<float> values[4];  // data[i] as floats; a conv2d keeps only bias and slopes here
    std::vector<Conv> convs;     // a conv2d's packings, the first for the last level
    std::vector<size_t> served;  // of each level: its packing, or kIdle
    std::vector<bool> idle;      // of each level: nobody reads its result, and it is not run

    Kind kind() const { return static_cast<Kind>(record.kind); }
    int param(int index) const { return record.params[index]; }
    const float* slopes() const { return values[kSlopes].empty() ? nullptr : values[kSlopes].data(); }
};

struct Workspace;

struct Program {
    const Kernels* kernels = nullptr;
    std::vector<uint32_t> buffer_channels;
    std::vector<ValueRecord> values;
    std::vector<uint32_t> outputs;
    std::vector<Operation> operations;
    uint32_t inputs = 0, levels = 1;
    bool turned = false;  // rows are the images' columns, see turned.h

    // Idle workspaces; a run takes one away, so that several threads may run at once.
    std::mutex guard;
    std::vector<std::unique_ptr<Workspace>> idle;

    Program();
    ~Program();
};

// Reads and checks every field; throws Error. `bytes` need not outlive the call. `turned`: see turned.h.
std::unique_ptr<Program> load_program(const void* bytes, size_t size, bool turned = false);

struct Shape {
    int64_t height = 0, width = 0;
};

inline bool operator==(Shape a, Shape b) { return a.height == b.height && a.width == b.width; }

// Runs a level of the program on each image of a batch, `sizes` one an input (of a turned program
// turned, while images stay upright); throws Error. Adds to `seconds` (or null) what each operation took.
void run_program(Program& program, const float* const* inputs, int64_t batch,
                 const std::vector<Shape>& sizes, float* const* outputs, int threads, int level,
                 double* seconds);

// Height and width of every buffer for inputs of those sizes; throws Error where one is impossible.
std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& sizes);

}  // namespace nmk

#endif  // NMK_PROGRAM_H
