// Pixels of frames and maps: resizing, how a frame fills the model's input, scene cuts, heat maps.
//
// No dependency but the standard library. The arithmetic is that of student/edge.py, where the functions have the
// same names. Frames are uint8 RGB: (height, width, 3) from a camera, planar (3, H, W) for the model.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace saliency {

struct Size {
    int height = 0, width = 0;

    std::size_t area() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width); }
    bool operator==(const Size& other) const { return height == other.height && width == other.width; }
};

/// How frames of another aspect ratio fill the model's input.
enum class Fit {
    stretch,    // scaled to the input without their aspect ratio
    letterbox,  // scaled to fit inside the input, centred on grey
    crop        // scaled to cover the input, which shows their centre
};

/// Resampling of one axis: each new pixel is a weighted sum of neighbouring old pixels. A pixel without weights has
/// no source; it becomes 0, or padding.
struct Taps {
    std::size_t first = 0;
    std::vector<float> weights;
};
using Axis = std::vector<Taps>;

/// Size to which a frame is scaled for an input: `input` for stretch, at most `input` for letterbox, at least
/// `input` for crop.
Size content_size(Fit fit, Size frame, Size input);

/// Scales frames of one size with a cubic kernel, antialiased, and places them on the model's input.
class Placer {
public:
    Placer(Fit fit, Size frame, Size input);

    /// Converts a frame (height, width, 3) to an image (3, H, W).
    void operator()(const std::uint8_t* frame, std::uint8_t* image) const;

    /// Share of the input that is not padding, at most 1.
    double share() const { return share_; }

private:
    Size frame_, input_;
    Axis rows_, columns_;
    double share_;
};

/// Converts maps (h, w) of the model's input to maps (h, w) of whole frames: padding is cut off, and what `crop`
/// left out is 0.
class Unplacer {
public:
    Unplacer(Fit fit, Size frame, Size input, Size map);

    void operator()(std::vector<float>& map) const;

private:
    Size map_;
    Axis rows_, columns_;
};

/// Scene cut detector: a frame is a cut if its difference from the previous frame rises by more than the threshold.
/// The difference is the mean absolute difference of 12 x 20 block averages, in [0, 1].
class Cuts {
public:
    Cuts(Size input, double threshold);

    /// Whether the next image, (3, H, W), starts a new scene. `share` is that of the `Placer`.
    bool operator()(const std::uint8_t* image, double share);

private:
    Size input_;
    Axis rows_, columns_;
    std::vector<float> blocks_;  // of the previous image, (3, 12, 20); empty before the first one
    double difference_ = 0, threshold_;
};

/// Draws maps as heat maps on frames of one size, more opaque where hotter.
class Overlay {
public:
    Overlay(Size frame, Size map);

    /// Draws a map (h, w) in [0, 1] on a frame (height, width, 3), in place.
    void operator()(const std::vector<float>& map, std::uint8_t* frame) const;

private:
    Size map_;
    Axis rows_, columns_;
    std::array<float, 256> keep_;                  // weight of the frame for each level of a map
    std::array<std::array<float, 3>, 256> paint_;  // colour to add
};

}  // namespace saliency
