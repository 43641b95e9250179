#include "kit.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

namespace saliency {
namespace {

/// Returns a binary file of whole items, each of `item` values (little-endian, as the processor's own).
template <typename Value>
std::vector<Value> read(const std::filesystem::path& path, std::size_t item) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file)
        throw Error(path.string() + ": cannot be read; expected a file written by `saldistill export ... --kit`");
    const std::size_t bytes = static_cast<std::size_t>(file.tellg()), expected = item * sizeof(Value);
    if (bytes == 0 || bytes % expected != 0)
        throw Error(path.string() + ": has " + std::to_string(bytes) + " bytes; expected a multiple of " +
                    std::to_string(expected) + "; write the kit from this model again");
    std::vector<Value> values(bytes / sizeof(Value));
    file.seekg(0);
    if (!file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(bytes)))
        throw Error(path.string() + ": cannot be read to its end");
    return values;
}

double correlation(const float* a, const float* b, std::size_t count) {
    if (std::equal(a, a + count, b)) return 1;  // also for constant maps
    double mean_a = 0, mean_b = 0, ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < count; ++i) mean_a += a[i], mean_b += b[i];
    mean_a /= static_cast<double>(count);
    mean_b /= static_cast<double>(count);
    for (std::size_t i = 0; i < count; ++i) {
        const double x = a[i] - mean_a, y = b[i] - mean_b;
        ab += x * y, aa += x * x, bb += y * y;
    }
    return ab / std::sqrt(aa * bb);
}

}  // namespace

KitResult replay(Student& student, const std::string& folder) {
    const std::filesystem::path kit(folder);
    const std::size_t image = 3 * student.size().area(), area = student.map_size().area();
    const auto frames = read<std::uint8_t>(kit / "frames.bin", image);
    const auto calls = read<std::int32_t>(kit / "calls.bin", 2);
    const auto maps = read<float>(kit / "maps.bin", area);
    if (calls.size() / 2 != maps.size() / area)
        throw Error(folder + ": calls.bin has " + std::to_string(calls.size() / 2) + " calls and maps.bin " +
                    std::to_string(maps.size() / area) + " maps; write the kit again");

    KitResult result;
    std::vector<double> latencies;
    for (std::size_t call = 0; call < calls.size() / 2; ++call) {
        const std::size_t frame = static_cast<std::size_t>(calls[2 * call + 1]);  // huge if negative
        if (frame >= frames.size() / image)
            throw Error(folder + ": call " + std::to_string(call) + " uses image " +
                        std::to_string(calls[2 * call + 1]) + ", and frames.bin has " +
                        std::to_string(frames.size() / image) + "; write the kit again");
        const auto start = std::chrono::steady_clock::now();
        if (calls[2 * call] != 0) student.reset();
        const std::vector<float>& map = student.step(frames.data() + frame * image);
        const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
        latencies.push_back(elapsed.count());

        const float* expected = maps.data() + call * area;
        for (std::size_t i = 0; i < area; ++i) {
            const double error = std::abs(static_cast<double>(map[i]) - expected[i]);
            if (!(error <= result.max_error)) result.max_error = error;  // a NaN is kept
        }
        const double cc = correlation(map.data(), expected, area);
        if (!(cc >= result.min_cc)) result.min_cc = cc;
    }
    result.calls = latencies.size();
    result.first_ms = latencies.front();
    if (latencies.size() > 1) {
        const auto middle = latencies.begin() + 1 + static_cast<std::ptrdiff_t>((latencies.size() - 1) / 2);
        std::nth_element(latencies.begin() + 1, middle, latencies.end());
        result.steady_ms = *middle;
    }
    return result;
}

}  // namespace saliency
