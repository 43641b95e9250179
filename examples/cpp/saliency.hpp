// Saliency maps of a video, frame by frame, from an exported streaming student on OpenVINO.
//
//     saliency::Student student("model.xml");
//     saliency::Stream stream(student);
//     while (camera.read(frame)) {                                             // uint8 RGB (height, width, 3)
//         const std::vector<float>& map = stream(frame.data(), {height, width});  // (h, w) in [0, 1]
//     }

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

#include "image.hpp"

namespace saliency {

/// A mistake that the user can correct, as one sentence.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// An exported streaming student: takes images of its own size and returns raw maps. The past of the video is kept
/// inside OpenVINO's inference requests, so that a step has only the image as input and the map as output.
///
/// At a stride of s, image f continues from the state of image f - s. Every request has a state of its own: s
/// requests take turns.
class Student {
public:
    /// Reads and compiles model.xml and the model.bin next to it, for the CPU.
    ///
    /// @param threads  threads of the network; 0 for OpenVINO's choice.
    /// @param stride   distance in frames between the images of one state; 0 for the stride of the training.
    /// @throws Error   the file does not exist, or is not a streaming student exported by this project.
    explicit Student(const std::string& path, int threads = 0, int stride = 0);

    /// Returns the map (h, w) of the next image (3, H, W): in [0, 1], with a maximum of 1 if `peaked`. The map is
    /// valid until the next step.
    ///
    /// @throws Error   the map contains NaN or infinity.
    std::vector<float>& step(const std::uint8_t* image);

    /// Starts over: the next image is the first one of another video or scene.
    void reset() { turn_ = 0; started_ = false; }

    Size size() const { return size_; }
    Size map_size() const { return map_size_; }
    Fit fit() const { return fit_; }
    bool peaked() const { return values_ != "sigmoid"; }

private:
    std::string path_, values_;
    Size size_, map_size_;
    Fit fit_ = Fit::stretch;
    std::vector<ov::InferRequest> requests_;  // one per frame of the stride
    std::size_t turn_ = 0;
    bool started_ = false;
    std::vector<float> map_;
};

/// A student on a video: takes frames of any size, starts over at scene cuts, and returns maps of whole frames.
class Stream {
public:
    static constexpr double default_cuts = 0.1;

    /// @param student  must outlive the stream.
    /// @param cuts     threshold of `Cuts`; none disables scene cuts.
    explicit Stream(Student& student, std::optional<double> cuts = default_cuts);

    /// Returns the map (h, w) of the next frame (height, width, 3), in [0, 1]; valid until the next call.
    const std::vector<float>& operator()(const std::uint8_t* frame, Size size);

    /// Number of scene cuts so far.
    long cuts() const { return resets_; }

private:
    Student& student_;
    std::optional<Cuts> cuts_;
    Size frame_;
    std::optional<Placer> placer_;      // for frames of size `frame_`
    std::optional<Unplacer> unplacer_;
    std::vector<std::uint8_t> image_;
    long resets_ = 0;
};

}  // namespace saliency
