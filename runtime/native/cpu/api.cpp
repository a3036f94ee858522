// The C ABI of programs: exceptions become a text and a status.

#include <cstring>
#include <exception>
#include <utility>

#include "nmk.h"
#include "program.h"
#include "turned.h"

struct nmk_program {
    std::unique_ptr<nmk::Program> held;
    std::unique_ptr<nmk::Turned> turned;
};

namespace {

void explain(const char* what, char* text, size_t size) {
    if (text == nullptr || size == 0) return;
    std::strncpy(text, what, size - 1);
    text[size - 1] = '\0';
}

// Runs the body; 0, or 1 and what went wrong.
template <class Body>
int guarded(char* text, size_t size, const Body& body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        explain("not enough memory", text, size);
    } catch (const std::exception& error) {
        explain(error.what(), text, size);
    }
    return 1;
}

// The caller's heights and widths, one pair for each input; kept by the thread, to allocate once.
std::vector<nmk::Shape>& shapes_of(const nmk::Program& program, const int64_t* sizes) {
    if (sizes == nullptr) throw nmk::Error("no sizes given");
    thread_local std::vector<nmk::Shape> shapes;
    shapes.clear();
    for (uint32_t i = 0; i < program.inputs; ++i) shapes.push_back({sizes[2 * i], sizes[2 * i + 1]});
    return shapes;
}

// Runs it whichever way round takes less.
void run(nmk_program& program, const float* const* inputs, int64_t batch, const int64_t* sizes,
         float* const* outputs, int threads, int level, double* seconds) {
    std::vector<nmk::Shape>& shapes = shapes_of(*program.held, sizes);
    nmk::Program* turned = program.turned->faster(shapes[0]);
    if (turned != nullptr) {
        std::swap(shapes[0].height, shapes[0].width);
        try {
            nmk::run_program(*turned, inputs, batch, shapes, outputs, threads, level, seconds);
            return;
        } catch (const nmk::Error&) {
            std::swap(shapes[0].height, shapes[0].width);
        }
    }
    nmk::run_program(*program.held, inputs, batch, shapes, outputs, threads, level, seconds);
    if (turned != nullptr) program.turned->give_up();  // upright it can be run
}

}  // namespace

nmk_program* nmk_program_load(const void* bytes, size_t size, char* text, size_t text_size) {
    nmk_program* program = nullptr;
    guarded(text, text_size, [&] {
        if (bytes == nullptr) throw nmk::Error("no program given");
        auto made = std::make_unique<nmk_program>();
        made->held = nmk::load_program(bytes, size);
        made->turned = std::make_unique<nmk::Turned>(bytes, size, *made->held);
        program = made.release();
    });
    return program;
}

void nmk_program_free(nmk_program* program) { delete program; }

const char* nmk_program_isa(const nmk_program* program) { return program->held->kernels->name; }

int nmk_program_counts(const nmk_program* program, uint32_t* inputs, uint32_t* outputs,
                       uint32_t* operations) {
    *operations = static_cast<uint32_t>(program->held->operations.size());
    *inputs = program->held->inputs;
    *outputs = static_cast<uint32_t>(program->held->outputs.size());
    return 0;
}

uint32_t nmk_program_levels(const nmk_program* program) { return program->held->levels; }

uint32_t nmk_program_full_width(const nmk_program* program) {
    return static_cast<uint32_t>(program->held->kernels->lanes * nmk::kWinogradBlock);
}

int nmk_program_input(const nmk_program* program, uint32_t index, uint32_t* channels) {
    if (index >= program->held->inputs) return 1;
    *channels = program->held->values[index].channels;
    return 0;
}

int nmk_program_output(const nmk_program* program, uint32_t index, const int64_t* sizes,
                       int64_t* shape, char* text, size_t text_size) {
    return guarded(text, text_size, [&] {
        const nmk::Program& held = *program->held;
        if (index >= held.outputs.size()) throw nmk::Error("the program has no such output");
        const nmk::ValueRecord& value = held.values[held.outputs[index]];
        const nmk::Shape size = nmk::infer_shapes(held, shapes_of(held, sizes))[value.buffer];
        shape[0] = value.channels, shape[1] = size.height, shape[2] = size.width;
    });
}

int nmk_program_run(nmk_program* program, const float* const* inputs, int64_t batch,
                    const int64_t* sizes, float* const* outputs, int threads, int level, char* text,
                    size_t text_size) {
    return guarded(text, text_size, [&] {
        run(*program, inputs, batch, sizes, outputs, threads, level, nullptr);
    });
}

int nmk_program_profile(nmk_program* program, const float* const* inputs, int64_t batch,
                        const int64_t* sizes, float* const* outputs, int threads, int level, double* seconds,
                        char* text, size_t text_size) {
    return guarded(text, text_size, [&] {
        run(*program, inputs, batch, sizes, outputs, threads, level, seconds);
    });
}
