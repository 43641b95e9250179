// Golden vectors: replays the recorded calls of a model and compares the maps.

#pragma once

#include <cstddef>
#include <string>

#include "saliency.hpp"

namespace saliency {

struct KitResult {
    std::size_t calls = 0;
    double max_error = 0;       // largest absolute difference of a map's value
    double min_cc = 1;          // lowest linear correlation of a map; NaN if a constant map differs
    double first_ms = 0;        // latency of the first call
    double steady_ms = 0;       // median latency of the other calls
};

/// Replays the files of a folder written by `saldistill export ... --kit FOLDER`, without resizing:
///
///     frames.bin   uint8 (n, 3, H, W), the images
///     calls.bin    int32 (calls, 2): 1 to reset the state before this call, else 0; index of the image
///     maps.bin     float32 (calls, 1, h, w), the expected maps
///
/// @param student  with a stride of 1.
/// @throws Error   a file is missing or does not fit the model.
KitResult replay(Student& student, const std::string& folder);

}  // namespace saliency
