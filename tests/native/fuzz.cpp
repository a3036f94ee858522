// Packed programs + seconds -> mutated ones, loaded and run at small sizes until the time is up.
//
//     fuzz SECONDS SEED PROGRAM...
//
// Built with sanitizers, which end the process at the first access out of bounds; see test_fuzz.py.
// Prints how many programs were tried and how many of them loaded and ran.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "nmk.h"

namespace {

using Bytes = std::vector<unsigned char>;

constexpr size_t kHeaderBytes = 48;
constexpr int64_t kMostFloats = 1 << 18;  // of an output: larger ones only cost time
const uint32_t kEdges[] = {0, 1, 2, 3, 4, 6, 7, 15, 16, 17, 63, 64, 255, 1u << 14, (1u << 14) + 1,
                           1u << 24, 0x7fffffffu, 0x80000000u, 0xfffffffeu, 0xffffffffu};
const int kSizes[] = {1, 2, 3, 5, 7, 8, 9, 16, 17, 33};
constexpr int kWide = 800, kLow = 5;  // of images whose bands threads share

class Fuzzer {
public:
    explicit Fuzzer(uint64_t seed) : random_(seed) {}

    size_t below(size_t limit) { return static_cast<size_t>(random_() % limit); }

    // One to four changes, most of them in the tables, where every field means something.
    Bytes mutated(const std::vector<Bytes>& seeds) {
        Bytes found = seeds[below(seeds.size())];
        for (size_t left = 1 + below(4); left > 0; --left) {
            switch (below(10)) {
                case 0: found[below(found.size())] ^= static_cast<unsigned char>(1u << below(8)); break;
                case 1: truncate(found); break;
                case 2: splice(found, seeds[below(seeds.size())]); break;
                case 3: found[below(found.size())] = static_cast<unsigned char>(below(256)); break;
                case 4: move_word(found); break;
                default: set_word(found, kEdges[below(std::size(kEdges))]); break;
            }
        }
        return found;
    }

    // Loads and runs; true if it could be run.
    bool attempt(const Bytes& bytes) {
        if (below(16) == 0) return attempt(bytes, kLow, kWide, false);
        return attempt(bytes, kSizes[below(std::size(kSizes))], kSizes[below(std::size(kSizes))], true);
    }

    // `varied`: some inputs are twice as large as the first.
    bool attempt(const Bytes& bytes, int height, int width, bool varied) {
        char text[256];
        // A copy of exactly that size, so that one byte too far is seen.
        const Bytes exact(bytes.begin(), bytes.end());
        nmk_program* program = nmk_program_load(exact.data(), exact.size(), text, sizeof text);
        if (program == nullptr) return false;
        const bool ran = run(program, height, width, varied);
        nmk_program_free(program);
        return ran;
    }

private:
    size_t table_word(const Bytes& bytes) {
        const size_t words = bytes.size() / sizeof(uint32_t);
        const size_t tables = below(8) == 0 ? words : std::min<size_t>(words, 512);
        return below(std::max<size_t>(tables, 1)) * sizeof(uint32_t);
    }

    void set_word(Bytes& bytes, uint32_t value) {
        const size_t place = table_word(bytes);
        if (place + sizeof value <= bytes.size()) std::memcpy(&bytes[place], &value, sizeof value);
    }

    void move_word(Bytes& bytes) {
        const size_t from = table_word(bytes);
        uint32_t value = 0;
        if (from + sizeof value > bytes.size()) return;
        std::memcpy(&value, &bytes[from], sizeof value);
        set_word(bytes, value + static_cast<uint32_t>(below(5)) - 2);
    }

    void splice(Bytes& bytes, const Bytes& other) {
        const size_t count = 1 + below(256), from = below(other.size()), to = below(bytes.size());
        for (size_t i = 0; i < count && from + i < other.size() && to + i < bytes.size(); ++i) {
            bytes[to + i] = other[from + i];
        }
    }

    // Shorter, and half of the time with a header that knows it.
    void truncate(Bytes& bytes) {
        if (bytes.size() <= kHeaderBytes) return;
        bytes.resize(kHeaderBytes + below(bytes.size() - kHeaderBytes));
        const uint64_t size = bytes.size();
        if (below(2) == 0) std::memcpy(&bytes[8], &size, sizeof size);
    }

    bool run(nmk_program* program, int height, int width, bool varied) {
        char text[256];
        uint32_t inputs = 0, outputs = 0, operations = 0;
        nmk_program_counts(program, &inputs, &outputs, &operations);
        std::vector<std::vector<float>> arrays;
        std::vector<int64_t> sizes;
        for (uint32_t i = 0; i < inputs; ++i) {
            uint32_t channels = 0;
            nmk_program_input(program, i, &channels);
            const int times = i > 0 && varied && below(4) == 0 ? 2 : 1;
            sizes.push_back(height * times), sizes.push_back(width * times);
            const auto pixels = static_cast<size_t>(height * times) * static_cast<size_t>(width * times);
            arrays.emplace_back(channels * pixels, 0.5f);
        }
        for (uint32_t i = 0; i < outputs; ++i) {
            int64_t shape[3];
            if (nmk_program_output(program, i, sizes.data(), shape, text, sizeof text) != 0) return false;
            if (shape[1] * shape[2] > kMostFloats / shape[0]) return false;
            arrays.emplace_back(static_cast<size_t>(shape[0] * shape[1] * shape[2]));
        }
        std::vector<float*> places;
        for (auto& array : arrays) places.push_back(array.data());
        const std::vector<const float*> sources(places.begin(), places.begin() + inputs);
        const int threads = 1 + static_cast<int>(below(2));
        const auto level = static_cast<int>(below(nmk_program_levels(program)));
        return nmk_program_run(program, sources.data(), 1, sizes.data(), places.data() + inputs, threads,
                               level, text, sizeof text) == 0;
    }

    std::mt19937_64 random_;
};

Bytes read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

int main(int count, char** words) {
    if (count < 4) return 2;
    const double seconds = std::atof(words[1]);
    Fuzzer fuzzer(static_cast<uint64_t>(std::atoll(words[2])));
    std::vector<Bytes> seeds;
    for (int i = 3; i < count; ++i) seeds.push_back(read(words[i]));
    for (const Bytes& seed : seeds) {
        if (seed.empty() || !fuzzer.attempt(seed, 17, 33, false)) {
            std::puts("a program does not run as it is");
            return 2;
        }
    }
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto end = now() + std::chrono::duration<double>(seconds);
    long tried = 0, ran = 0;
    for (; now() < end; ++tried) ran += fuzzer.attempt(fuzzer.mutated(seeds));
    std::printf("%ld %ld\n", tried, ran);
    return 0;
}
