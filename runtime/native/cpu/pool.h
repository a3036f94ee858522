// A fixed number of threads -> the parts of a job, each done once, by whichever thread is free.
#ifndef NMK_POOL_H
#define NMK_POOL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace nmk {

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(first, stop, thread) for pieces of 0..count and waits until all are done. The
    // calling thread works too, as thread 0; body must not throw.
    template <class Body>
    void each(int64_t count, const Body& body) {
        run(count, [](const void* context, int64_t first, int64_t stop, int thread) {
            (*static_cast<const Body*>(context))(first, stop, thread);
        }, &body);
    }

    // Waits until every thread has called it, within a job of as many pieces as there are threads.
    void meet();

private:
    using Call = void (*)(const void*, int64_t, int64_t, int);

    void run(int64_t count, Call call, const void* context);
    void work(int thread);
    void take_pieces(int thread);

    std::vector<std::thread> workers_;
    std::mutex guard_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> job_{0};
    std::atomic<int> busy_{0}, arrived_{0};
    std::atomic<uint64_t> met_{0};
    std::atomic<bool> stop_{false};
    std::atomic<int64_t> next_{0};
    int64_t count_ = 0, piece_ = 1;
    Call call_ = nullptr;
    const void* context_ = nullptr;
};

// A pool of so many threads, for one run; those that are idle are shared by all programs of the process.
class BorrowedPool {
public:
    explicit BorrowedPool(int threads);
    ~BorrowedPool();
    BorrowedPool(const BorrowedPool&) = delete;
    BorrowedPool& operator=(const BorrowedPool&) = delete;

    Pool& operator*() const { return *pool_; }

private:
    std::unique_ptr<Pool> pool_;
};

}  // namespace nmk

#endif  // NMK_POOL_H
