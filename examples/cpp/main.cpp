// Saliency of raw video from standard input, or a check of the model with golden vectors.
//
//     ffmpeg -i video.mp4 -f rawvideo -pix_fmt rgb24 - | saliency model.xml --raw 1920x1080 --maps maps.bin
//     saliency model.xml --kit KIT
//
// Exit code: 0; 1 if the maps differ from the golden vectors; 2 for invalid input.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "kit.hpp"
#include "saliency.hpp"

using namespace saliency;

namespace {

constexpr const char* usage =
    "usage: saliency MODEL.xml --raw WIDTHxHEIGHT [options] < frames.rgb24\n"
    "       saliency MODEL.xml --kit KIT [options]\n"
    "\n"
    "  --raw WIDTHxHEIGHT  read rgb24 frames of this size from standard input\n"
    "  --maps FILE         write every map, float32 (h, w), one after another\n"
    "  --overlay FILE      write every frame with its map as a heat map, rgb24\n"
    "  --cuts THRESHOLD    threshold of scene cuts, or off (default: 0.1)\n"
    "  --stride N          distance between frames, a whole number (default: as in training)\n"
    "  --threads N         threads of the network (default: OpenVINO's choice)\n"
    "\n"
    "  --kit KIT           replay golden vectors; exit code 1 if the maps differ\n"
    "  --max-error X       largest difference of a value (default: 0.001)\n"
    "  --min-cc X          lowest correlation of a map (default: 0.9999)\n";

using Options = std::map<std::string, std::string>;  // "--raw" -> "1920x1080"; "model" -> "model.xml"

Options parse(int count, char** arguments) {
    const std::set<std::string> raw{"--raw", "--maps", "--overlay", "--cuts", "--stride", "--threads"};
    const std::set<std::string> kit{"--kit", "--threads", "--max-error", "--min-cc"};
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name.rfind("--", 0) != 0) {
            if (!options.emplace("model", name).second) throw Error(name + ": expected one model; see --help");
        } else if (raw.count(name) + kit.count(name) == 0) {
            throw Error(name + ": unknown option; see --help");
        } else if (i + 1 == count) {
            throw Error(name + ": expected a value; see --help");
        } else {
            options[name] = arguments[++i];
        }
    }
    if (options.count("model") == 0 || options.count("--raw") + options.count("--kit") != 1)
        throw Error("expected a model, and either --raw WIDTHxHEIGHT or --kit KIT; see --help");
    const std::set<std::string>& valid = options.count("--raw") ? raw : kit;
    for (const auto& [name, value] : options)
        if (name != "model" && valid.count(name) == 0)
            throw Error(name + ": does not apply to " + (&valid == &raw ? "--raw" : "--kit") + "; see --help");
    return options;
}

/// Returns a whole number from 1 to `most`, or 0 if the text is not such a number.
int whole(const std::string& text, int most) {
    if (text.empty() || text.size() > 8 || text.find_first_not_of("0123456789") != std::string::npos) return 0;
    const int value = std::stoi(text);
    return value <= most ? value : 0;
}

/// Returns the value of an option, from 1 to `most`; 0 if it is not given.
int whole_option(const Options& options, const std::string& name, int most) {
    const auto found = options.find(name);
    if (found == options.end()) return 0;
    const int value = whole(found->second, most);
    if (value == 0)
        throw Error(name + " " + found->second + ": expected a whole number from 1 to " + std::to_string(most));
    return value;
}

double number_option(const Options& options, const std::string& name, double otherwise) {
    const auto found = options.find(name);
    if (found == options.end()) return otherwise;
    char* end = nullptr;
    const double value = std::strtod(found->second.c_str(), &end);
    if (found->second.empty() || *end != '\0' || !std::isfinite(value) || value < 0)
        throw Error(name + " " + found->second + ": expected a number of at least 0");
    return value;
}

Size frame_size(const std::string& text) {
    const std::size_t cross = text.find('x');
    const int width = whole(text.substr(0, cross), 1 << 16);
    const int height = cross == std::string::npos ? 0 : whole(text.substr(cross + 1), 1 << 16);
    const Size size{height, width};
    if (width == 0 || height == 0 || size.area() > std::size_t{1} << 26)
        throw Error("--raw " + text + ": expected a size such as 1920x1080, of at most 2^26 pixels");
    return size;
}

/// A file of raw values that grows by one block per frame.
class Output {
public:
    Output(const Options& options, const std::string& name) {
        const auto found = options.find(name);
        if (found == options.end()) return;
        path_ = found->second;
        if (std::filesystem::is_regular_file(path_))  // a pipe exists before it is opened
            throw Error(path_ + ": already exists; choose another name or remove it");
        file_.open(path_, std::ios::binary);
        if (!file_) throw Error(path_ + ": cannot be written; check that its folder exists");
    }

    bool wanted() const { return !path_.empty(); }

    template <typename Value>
    void write(const std::vector<Value>& values) {
        const auto bytes = static_cast<std::streamsize>(values.size() * sizeof(Value));
        if (!file_.write(reinterpret_cast<const char*>(values.data()), bytes).flush())
            throw Error(path_ + ": writing failed; check the space on the disk");
    }

private:
    std::string path_;
    std::ofstream file_;
};

/// Latency of the last 10,000 frames.
class Latency {
public:
    void add(double milliseconds) {
        if (values_.size() < 10'000) values_.resize(values_.size() + 1);
        values_[next_++ % 10'000] = milliseconds;
    }

    double percentile(double share) const {
        std::vector<double> sorted = values_;
        std::sort(sorted.begin(), sorted.end());
        return sorted[static_cast<std::size_t>(std::lround(share * static_cast<double>(sorted.size() - 1)))];
    }

private:
    std::vector<double> values_;
    std::size_t next_ = 0;
};

/// Reads the next frame from standard input; returns false at the end.
bool read_frame(std::vector<std::uint8_t>& frame, long number) {
    const std::size_t bytes = std::fread(frame.data(), 1, frame.size(), stdin);
    if (bytes != 0 && bytes != frame.size())
        throw Error("standard input ends inside frame " + std::to_string(number) + ", after " +
                    std::to_string(bytes) + " of " + std::to_string(frame.size()) +
                    " bytes; check the size and that it is rgb24");
    return bytes != 0;
}

int run_raw(const Options& options) {
    const Size size = frame_size(options.at("--raw"));
    std::optional<double> threshold;
    if (options.count("--cuts") == 0 || options.at("--cuts") != "off")
        threshold = number_option(options, "--cuts", Stream::default_cuts);
    const int threads = whole_option(options, "--threads", 256), stride = whole_option(options, "--stride", 1000);
    Student student(options.at("model"), threads, stride);
    Stream stream(student, threshold);
    const Overlay overlay(size, student.map_size());
    Output maps(options, "--maps"), overlays(options, "--overlay");

    std::vector<std::uint8_t> frame(3 * size.area());
    Latency latency;
    long frames = 0;
    for (; read_frame(frame, frames + 1); ++frames) {
        const auto start = std::chrono::steady_clock::now();
        const std::vector<float>& map = stream(frame.data(), size);
        const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
        latency.add(elapsed.count());
        if (maps.wanted()) maps.write(map);
        if (overlays.wanted()) {
            overlay(map, frame.data());
            overlays.write(frame);
        }
    }
    if (frames == 0)
        throw Error("standard input has no frames; expected rgb24 of " + options.at("--raw") + " pixels");
    std::printf("%ld frames; latency per frame p50 %.2f ms, p99 %.2f ms (resize and inference); %ld scene cuts\n",
                frames, latency.percentile(0.5), latency.percentile(0.99), stream.cuts());
    return 0;
}

int run_kit(const Options& options) {
    const double max_error = number_option(options, "--max-error", 1e-3);
    const double min_cc = number_option(options, "--min-cc", 0.9999);
    Student student(options.at("model"), whole_option(options, "--threads", 256), 1);
    const KitResult result = replay(student, options.at("--kit"));
    std::printf("%zu calls; max error %.2e, lowest CC %.6f; latency first %.2f ms, then %.2f ms (median)\n",
                result.calls, result.max_error, result.min_cc, result.first_ms, result.steady_ms);
    if (result.max_error <= max_error && result.min_cc >= min_cc) return 0;
    std::fprintf(stderr, "saliency: the maps differ: expected an error of at most %g and a CC of at least %g\n",
                 max_error, min_cc);
    return 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 2 && (std::string(arguments[1]) == "--help" || std::string(arguments[1]) == "-h")) {
        std::fputs(usage, stdout);
        return 0;
    }
    try {
        const Options options = parse(count, arguments);
        return options.count("--raw") ? run_raw(options) : run_kit(options);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "saliency: %s\n", error.what());
        return 2;
    }
}
