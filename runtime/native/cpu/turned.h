// A program -> the same one for transposed images, which fill the kernels' vectors better where they are tall.
#ifndef NMK_TURNED_H
#define NMK_TURNED_H

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "program.h"

namespace nmk {

// A record with rows for columns; what it says of transposed images where `turned`, else itself. A pixel
// shuffle, whose params[1] the bytes leave open, is told there.
OperationRecord turned_record(OperationRecord record, bool turned);

// A convolution's layer likewise, its bias and slopes; `record` is the turned one.
void turn_layer(const OperationRecord& record, Layer& layer);
void turn_channels(const OperationRecord& record, std::vector<float>& values);

// A program's transposed twin, made of its bytes when an image first gains by it.
class Turned {
public:
    Turned(const void* bytes, size_t size, const Program& upright);

    // The twin if images of this size take less time by it, else null. Never throws.
    Program* faster(Shape size);

    // There is a size that the program itself can run and it cannot: from now on there is no twin.
    void give_up() { useless_ = true; }

private:
    double work(Shape size) const;

    std::vector<char> bytes_;
    int lanes_;
    double blocks_ = 0, positions_ = 0;  // products a pixel, of Winograd's kernel and of all others
    std::mutex guard_;
    std::unique_ptr<Program> made_;
    std::atomic<bool> useless_{false};
};

}  // namespace nmk

#endif  // NMK_TURNED_H
