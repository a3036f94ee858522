// Jobs -> threads: a short spin between a network's layers, then sleep.

#include "pool.h"

#include <unistd.h>

#include <algorithm>

namespace nmk {

namespace {

// About 20 microseconds: as long as the gap between two layers, no longer than a wake-up costs.
constexpr int kSpins = 2000;
constexpr int64_t kPiecesPerThread = 8;
constexpr size_t kMostIdle = 16;

struct IdlePools {
    IdlePools() { pools.reserve(kMostIdle); }

    std::mutex guard;
    std::vector<std::unique_ptr<Pool>> pools;
    pid_t process = getpid();

    // Threads do not survive a fork: a child has the pools, but can neither use nor end them.
    void forget_those_of_the_parent() {
        if (process == getpid()) return;
        for (auto& pool : pools) static_cast<void>(pool.release());
        pools.clear();
        process = getpid();
    }
};

// Never destroyed: when the process ends, its threads sleep.
IdlePools& idle_pools() {
    static auto* const idle = new IdlePools;
    return *idle;
}

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

Pool::Pool(int threads) {
    for (int thread = 1; thread < threads; ++thread) {
        workers_.emplace_back([this, thread] { work(thread); });
    }
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(guard_);
        stop_ = true;
        ++job_;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::run(int64_t count, Call call, const void* context) {
    count_ = count, call_ = call, context_ = context;
    piece_ = std::max<int64_t>(1, count / (threads() * kPiecesPerThread));
    next_ = 0;
    if (workers_.empty() || count <= 1) {
        take_pieces(0);
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(guard_);
        busy_ = static_cast<int>(workers_.size());
        ++job_;
    }
    wake_.notify_all();
    take_pieces(0);
    for (int spin = 0; spin < kSpins && busy_ != 0; ++spin) relax();
    if (busy_ != 0) {
        std::unique_lock<std::mutex> lock(guard_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }
}

void Pool::meet() {
    const uint64_t before = met_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads()) {
        arrived_.store(0, std::memory_order_relaxed);
        met_.store(before + 1, std::memory_order_release);
        return;
    }
    for (int spin = 0; met_.load(std::memory_order_acquire) == before; ++spin) {
        if (spin < kSpins) {
            relax();
        } else {
            std::this_thread::yield();  // there may be fewer cores than threads
        }
    }
}

void Pool::take_pieces(int thread) {
    while (true) {
        const int64_t first = next_.fetch_add(piece_);
        if (first >= count_) return;
        call_(context_, first, std::min(first + piece_, count_), thread);
    }
}

void Pool::work(int thread) {
    uint64_t seen = 0;
    while (true) {
        for (int spin = 0; spin < kSpins && job_ == seen; ++spin) relax();
        if (job_ == seen) {
            std::unique_lock<std::mutex> lock(guard_);
            wake_.wait(lock, [this, seen] { return job_ != seen; });
        }
        seen = job_;
        if (stop_) return;
        take_pieces(thread);
        if (busy_.fetch_sub(1) == 1) {
            const std::lock_guard<std::mutex> lock(guard_);
            done_.notify_one();
        }
    }
}

BorrowedPool::BorrowedPool(int threads) {
    IdlePools& idle = idle_pools();
    {
        const std::lock_guard<std::mutex> lock(idle.guard);
        idle.forget_those_of_the_parent();
        const auto found = std::find_if(idle.pools.begin(), idle.pools.end(),
                                        [threads](const auto& pool) { return pool->threads() == threads; });
        if (found != idle.pools.end()) {
            pool_ = std::move(*found);
            *found = std::move(idle.pools.back());
            idle.pools.pop_back();
        }
    }
    if (!pool_) pool_ = std::make_unique<Pool>(threads);
}

BorrowedPool::~BorrowedPool() {
    IdlePools& idle = idle_pools();
    const std::lock_guard<std::mutex> lock(idle.guard);
    if (idle.pools.size() < kMostIdle) idle.pools.push_back(std::move(pool_));
}

}  // namespace nmk
