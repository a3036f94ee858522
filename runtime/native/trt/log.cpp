// A line -> the logger that TensorRT's finder names for this thread, else standard error.
#include "log.h"

#include <atomic>
#include <cstdio>

namespace nmk_trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

nvinfer1::ILogger* logger() noexcept {
    nvinfer1::ILoggerFinder* const found = finder.load();
    try {
        return found ? found->findLogger() : nullptr;
    } catch (...) {  // of the application, and may be anything
        return nullptr;
    }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* found) noexcept { finder.store(found); }

void log_error(const char* line) noexcept {
    char text[1024];
    std::snprintf(text, sizeof text, "nmcompile: %s", line);
    if (nvinfer1::ILogger* const found = logger()) {
        found->log(nvinfer1::ILogger::Severity::kERROR, text);
    } else {
        std::fprintf(stderr, "%s\n", text);
    }
}

void log_error(const char* layer, const char* text) noexcept {
    char line[1024];
    std::snprintf(line, sizeof line, "layer %s: %s", layer, text);
    log_error(line);
}

}  // namespace nmk_trt
