// What went wrong with a layer -> one line in TensorRT's log, and no exception beyond a virtual function.
#ifndef NMK_TRT_LOG_H
#define NMK_TRT_LOG_H

#include <NvInferRuntime.h>

#include <exception>
#include <stdexcept>
#include <string>

namespace nmk_trt {

// The whole line: the layer, what was found, what was expected.
class Problem : public std::runtime_error {
  public:
    explicit Problem(const std::string& line) : std::runtime_error(line) {}
    Problem(const std::string& layer, const std::string& text) : Problem("layer " + layer + ": " + text) {}
};

// Where the logger of the calling thread is found from now on; null for standard error.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

void log_error(const char* line) noexcept;

// For what is no Problem, such as too little memory.
void log_error(const char* layer, const char* text) noexcept;

// What `action` gives; `failed`, and a line in the log, if it throws.
template <class Result, class Action>
Result guarded(const char* layer, Result failed, const Action& action) noexcept {
    try {
        return action();
    } catch (const Problem& problem) {
        log_error(problem.what());
    } catch (const std::exception& error) {
        log_error(layer, error.what());
    }
    return failed;
}

}  // namespace nmk_trt

#endif  // NMK_TRT_LOG_H
