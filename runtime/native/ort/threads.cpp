// No function of the C API tells a session's number of threads -> count those that take part in a parallel loop.
#include "threads.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace nmk_ort {
namespace {

constexpr size_t kText = 32;
// Longer than a sleeping thread takes to begin on a busy machine. Every session waits for so long, once.
constexpr std::chrono::milliseconds kPatience{50};

// Everyone who comes in waits for the next; whoever has waited in vain opens the door for all.
struct Meeting {
    std::mutex guard;
    std::condition_variable changed;
    int inside = 0, most = 0;
    bool open = false;

    void attend() {
        std::unique_lock<std::mutex> lock(guard);
        most = std::max(most, ++inside);
        changed.notify_all();
        while (!open) {
            const int seen = inside;
            if (!changed.wait_for(lock, kPatience, [&] { return open || inside != seen; })) open = true;
        }
        --inside;
        changed.notify_all();
    }
};

}  // namespace

int threads_of(const OrtSessionOptions* options) {
    char text[kText] = {};
    size_t size = sizeof text;
    int there = 0;
    check(g_api->HasSessionConfigEntry(options, kThreadsEntry, &there));
    if (there == 0) return 0;
    check(g_api->GetSessionConfigEntry(options, kThreadsEntry, text, &size));
    const int threads = std::atoi(text);
    if (threads < 1) throw Error(std::string(kThreadsEntry) + ": found '" + text + "', expected a number from 1 on");
    return threads;
}

int threads_of(Op& op, OrtKernelContext* context) {
    int threads = op.threads;
    if (threads > 0) return threads;
    Meeting meeting;
    const auto most = std::max<size_t>(1, std::thread::hardware_concurrency());
    check(g_api->KernelContext_ParallelFor(
        context, [](void* given, size_t) { static_cast<Meeting*>(given)->attend(); }, 2 * most, 0, &meeting));
    threads = std::max(1, meeting.most);
    op.threads = threads;
    return threads;
}

}  // namespace nmk_ort
