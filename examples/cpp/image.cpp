#include "image.hpp"

#include <algorithm>
#include <cmath>

namespace saliency {
namespace {

constexpr int max_aspect = 8;  // crop scales a frame to at most this many times the input's length
constexpr std::uint8_t padding = 128;

constexpr float heat_colours[9][3] = {  // of the colour map "inferno", evenly spaced, cold to hot
    {0, 0, 4},     {33, 12, 74},  {87, 16, 110}, {138, 34, 106},  {188, 55, 84},
    {228, 90, 49}, {249, 142, 9}, {249, 203, 53}, {252, 255, 164}};

/// Cubic kernel with a = -0.5.
double cubic_kernel(double x) {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
    return 0;
}

/// Axis that resizes `from` pixels to `to`. The kernel is widened for shrinking, so that nothing aliases.
Axis cubic(int from, int to) {
    const double scale = std::max(static_cast<double>(from) / to, 1.0);
    Axis axis(static_cast<std::size_t>(to));
    for (int i = 0; i < to; ++i) {
        const double centre = (i + 0.5) * from / to - 0.5;
        const int first = std::max(0, static_cast<int>(std::ceil(centre - 2 * scale)));
        const int last = std::min(from - 1, static_cast<int>(std::floor(centre + 2 * scale)));
        std::vector<double> weights;
        double sum = 0;
        for (int x = first; x <= last; ++x) {
            weights.push_back(cubic_kernel(std::abs(x - centre) / scale));
            sum += weights.back();
        }
        // Zeros at either end only cost time: without them, an axis that keeps its length is a plain copy.
        const auto nonzero = [](double weight) { return weight != 0; };
        const auto begin = std::find_if(weights.begin(), weights.end(), nonzero);
        const auto end = std::find_if(weights.rbegin(), weights.rend(), nonzero).base();
        Taps& taps = axis[static_cast<std::size_t>(i)];
        taps.first = static_cast<std::size_t>(first + (begin - weights.begin()));
        for (auto weight = begin; weight < end; ++weight)
            taps.weights.push_back(static_cast<float>(*weight / sum));
    }
    return axis;
}

/// Offset of content centred on an axis of the input, rounded down; negative if it is longer than the input.
int centred(int content, int input) {
    return content <= input ? (input - content) / 2 : -((content - input + 1) / 2);
}

/// Axis of the input whose middle is `content`, padded or cropped.
Axis place(const Axis& content, int input) {
    const int length = static_cast<int>(content.size()), first = centred(length, input);
    Axis axis(static_cast<std::size_t>(input));
    for (int i = std::max(first, 0); i < std::min(first + length, input); ++i)
        axis[static_cast<std::size_t>(i)] = content[static_cast<std::size_t>(i - first)];
    return axis;
}

/// Axis that resamples `pixels` pixels of a map of the input to as many of the whole frame, bilinearly.
Axis unplace(int content, int input, int pixels) {
    const double first = static_cast<double>(centred(content, input)) / input;
    Axis axis(static_cast<std::size_t>(pixels));
    for (int i = 0; i < pixels; ++i) {
        const double position = first + static_cast<double>(content) / input * (i + 0.5) / pixels;
        if (position < 0 || position > 1) continue;
        const double at = std::clamp(position * pixels - 0.5, 0.0, pixels - 1.0);
        const double near = std::floor(at);
        Taps& taps = axis[static_cast<std::size_t>(i)];
        taps.first = static_cast<std::size_t>(near);
        taps.weights.push_back(static_cast<float>(1 - (at - near)));
        if (at > near) taps.weights.push_back(static_cast<float>(at - near));
    }
    return axis;
}

/// Resamples an image (height, width, channels) and calls write(i, row) with each new row, (columns, channels).
template <int channels, typename Pixel, typename Write>
void resample(const Pixel* image, int width, const Axis& rows, const Axis& columns, Write write) {
    const std::size_t length = static_cast<std::size_t>(width) * channels;
    std::vector<float> blend(length), row(columns.size() * channels);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::fill(blend.begin(), blend.end(), 0.0F);
        const Pixel* source = image + rows[i].first * length;
        for (const float weight : rows[i].weights) {
            for (std::size_t x = 0; x < length; ++x) blend[x] += weight * static_cast<float>(source[x]);
            source += length;
        }
        float* out = row.data();
        for (const Taps& taps : columns) {
            float sum[channels] = {};
            const float* pixel = blend.data() + taps.first * channels;
            for (const float weight : taps.weights)
                for (float& channel : sum) channel += weight * *pixel++;
            out = std::copy(sum, sum + channels, out);
        }
        write(i, row.data());
    }
}

std::uint8_t to_byte(float value) {
    return static_cast<std::uint8_t>(std::nearbyint(std::clamp(value, 0.0F, 255.0F)));
}

}  // namespace

Size content_size(Fit fit, Size frame, Size input) {
    if (fit == Fit::stretch) return input;
    const auto scaled = [](long long length, long long to, long long from, long long limit) {
        const long long rounded = (2 * length * to + from) / (2 * from);
        return static_cast<int>(std::min(std::max(1LL, rounded), max_aspect * limit));
    };
    const bool taller = 1LL * frame.height * input.width > 1LL * frame.width * input.height;
    if (taller == (fit == Fit::letterbox))
        return {input.height, scaled(frame.width, input.height, frame.height, input.width)};
    return {scaled(frame.height, input.width, frame.width, input.height), input.width};
}

Placer::Placer(Fit fit, Size frame, Size input) : frame_(frame), input_(input) {
    const Size content = content_size(fit, frame, input);
    rows_ = place(cubic(frame.height, content.height), input.height);
    columns_ = place(cubic(frame.width, content.width), input.width);
    share_ = std::min(1.0, static_cast<double>(content.area()) / static_cast<double>(input.area()));
}

void Placer::operator()(const std::uint8_t* frame, std::uint8_t* image) const {
    const std::size_t width = columns_.size(), plane = input_.area();
    resample<3>(frame, frame_.width, rows_, columns_, [&](std::size_t i, const float* row) {
        std::uint8_t* out = image + i * width;
        for (std::size_t j = 0; j < width; ++j) {
            const bool outside = rows_[i].weights.empty() || columns_[j].weights.empty();
            for (std::size_t c = 0; c < 3; ++c) out[c * plane + j] = outside ? padding : to_byte(row[3 * j + c]);
        }
    });
}

Unplacer::Unplacer(Fit fit, Size frame, Size input, Size map) : map_(map) {
    const Size content = content_size(fit, frame, input);
    rows_ = unplace(content.height, input.height, map.height);
    columns_ = unplace(content.width, input.width, map.width);
}

void Unplacer::operator()(std::vector<float>& map) const {
    std::vector<float> whole(map.size());
    resample<1>(map.data(), map_.width, rows_, columns_, [&](std::size_t i, const float* row) {
        std::copy(row, row + columns_.size(), whole.data() + i * columns_.size());
    });
    map.swap(whole);
}

Cuts::Cuts(Size input, double threshold)
    : input_(input), rows_(cubic(input.height, 12)), columns_(cubic(input.width, 20)), threshold_(threshold) {}

bool Cuts::operator()(const std::uint8_t* image, double share) {
    std::vector<float> blocks;
    for (std::size_t c = 0; c < 3; ++c)
        resample<1>(image + c * input_.area(), input_.width, rows_, columns_, [&](std::size_t, const float* row) {
            for (std::size_t j = 0; j < columns_.size(); ++j) blocks.push_back(row[j] / 255);
        });
    double difference = 0;
    for (std::size_t i = 0; i < blocks_.size(); ++i) difference += std::abs(blocks[i] - blocks_[i]);
    difference /= static_cast<double>(blocks.size()) * share;
    const double rise = difference - difference_;
    blocks_.swap(blocks);
    difference_ = difference;
    return rise > threshold_;
}

Overlay::Overlay(Size frame, Size map)
    : map_(map), rows_(cubic(map.height, frame.height)), columns_(cubic(map.width, frame.width)) {
    for (std::size_t level = 0; level < 256; ++level) {
        const double heat = static_cast<double>(level) / 255, alpha = 0.7 * heat * (2 - heat), position = heat * 8;
        const auto below = std::min(static_cast<std::size_t>(position), std::size_t{7});
        keep_[level] = static_cast<float>(1 - alpha);
        for (std::size_t c = 0; c < 3; ++c) {
            const double cold = heat_colours[below][c], hot = heat_colours[below + 1][c];
            const double colour = cold + (position - static_cast<double>(below)) * (hot - cold);
            paint_[level][c] = static_cast<float>(alpha * colour + 0.5);  // 0.5 rounds
        }
    }
}

void Overlay::operator()(const std::vector<float>& map, std::uint8_t* frame) const {
    std::vector<std::uint8_t> grey(map.size());
    std::transform(map.begin(), map.end(), grey.begin(), [](float value) { return to_byte(value * 255); });
    resample<1>(grey.data(), map_.width, rows_, columns_, [&](std::size_t i, const float* row) {
        std::uint8_t* pixel = frame + i * columns_.size() * 3;
        for (std::size_t j = 0; j < columns_.size(); ++j) {
            const std::uint8_t level = to_byte(row[j]);
            for (std::size_t c = 0; c < 3; ++c, ++pixel)
                *pixel = static_cast<std::uint8_t>(static_cast<float>(*pixel) * keep_[level] + paint_[level][c]);
        }
    });
}

}  // namespace saliency
