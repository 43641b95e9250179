#include "saliency.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

namespace saliency {
namespace {

const std::map<std::string, Fit> fits{
    {"stretch", Fit::stretch}, {"letterbox", Fit::letterbox}, {"crop", Fit::crop}};

constexpr int max_stride = 1000;

/// Returns what the exporter stored under a key of the section "saldistill", or "" if it is missing.
std::string metadata(const ov::Model& model, const std::string& key) {
    const std::vector<std::string> place{"saldistill", key};
    return model.has_rt_info(place) ? model.get_rt_info<std::string>(place) : "";
}

std::string last_line(std::string text) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
    return text.substr(text.rfind('\n') + 1);
}

std::shared_ptr<ov::Model> read(ov::Core& core, const std::string& path) {
    const std::string expected = "; expected a model written by `saldistill export --format openvino`";
    if (!std::filesystem::is_regular_file(path)) throw Error(path + ": no such file" + expected);
    std::string head(256, '\0');  // for other files, OpenVINO tries all its formats, which log errors of their own
    std::ifstream(path).read(head.data(), 256);
    if (head.find("<net ") == std::string::npos) throw Error(path + ": is not an .xml file of OpenVINO" + expected);
    try {
        std::shared_ptr<ov::Model> model = core.read_model(path);
        if (metadata(*model, "mode").empty()) throw Error(path + ": has no section \"saldistill\"" + expected);
        return model;
    } catch (const ov::Exception& error) {
        throw Error(path + ": OpenVINO cannot read it and its .bin file: " + last_line(error.what()));
    }
}

/// Throws an Error unless the model is a streaming student that this program can run.
void check(const ov::Model& model, const std::string& path) {
    const std::string mode = metadata(model, "mode"), format = metadata(model, "format");
    const std::string fit = metadata(model, "fit"), values = metadata(model, "values");
    if (mode != "step")
        throw Error(path + ": is in " + mode + " mode; expected a streaming student, exported in step mode");
    if (format != "2" && format != "3")
        throw Error(path + ": has format \"" + format + "\"; expected 2 or 3; use the program of a newer version");
    if (fits.count(fit) == 0)
        throw Error(path + ": has fit \"" + fit + "\"; expected stretch, letterbox or crop");
    if (values != "peak" && values != "sigmoid" && values != "log")
        throw Error(path + ": has values \"" + values + "\"; expected peak, sigmoid or log");
    if (model.inputs().size() != 1 || model.outputs().size() != 1 || model.get_variables().empty())
        throw Error(path + ": expected one input, one output and internal state; export the model again");
    const ov::element::Type type = model.input().get_element_type();
    const ov::PartialShape in = model.input().get_partial_shape(), out = model.output().get_partial_shape();
    const bool images = in.is_static() && in.size() == 4 && in[0] == 1 && in[1] == 3;
    const bool maps = out.is_static() && out.size() == 4 && out[0] == 1 && out[1] == 1;
    if (!images || !maps || (type != ov::element::u8 && type != ov::element::f32))
        throw Error(path + ": expected a uint8 or float32 input (1, 3, H, W) and an output (1, 1, h, w); "
                    "export the model again");
}

/// Returns the stride of the training.
int trained_stride(const ov::Model& model, const std::string& path) {
    const std::string text = metadata(model, "stride");
    if (text.empty()) return 1;
    const bool whole = text.size() <= 4 && text.find_first_not_of("0123456789") == std::string::npos;
    const int stride = whole ? std::stoi(text) : 0;
    if (stride < 1 || stride > max_stride)
        throw Error(path + ": was trained at a stride of " + text +
                    "; set --stride to the whole number of frames closest to it at the frame rate of the video");
    return stride;
}

Size size_of(const ov::Shape& shape) {
    return {static_cast<int>(shape[2]), static_cast<int>(shape[3])};
}

}  // namespace

Student::Student(const std::string& path, int threads, int stride) : path_(path) {
    ov::Core core;
    const std::shared_ptr<ov::Model> model = read(core, path);
    check(*model, path);
    values_ = metadata(*model, "values");
    fit_ = fits.at(metadata(*model, "fit"));
    size_ = size_of(model->input().get_shape());
    map_size_ = size_of(model->output().get_shape());
    map_.resize(map_size_.area());
    if (stride == 0) stride = trained_stride(*model, path);

    ov::AnyMap settings{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                        ov::hint::inference_precision(ov::element::f32)};  // some processors default to bfloat16
    if (threads > 0) settings.emplace(ov::inference_num_threads(threads));
    ov::CompiledModel compiled;
    try {
        compiled = core.compile_model(model, "CPU", settings);
    } catch (const std::exception& error) {
        throw Error(path + ": OpenVINO cannot compile it for the CPU: " + last_line(error.what()));
    }
    for (int i = 0; i < stride; ++i) requests_.push_back(compiled.create_infer_request());
}

std::vector<float>& Student::step(const std::uint8_t* image) {
    ov::InferRequest& request = requests_[turn_];
    ov::Tensor input = request.get_input_tensor();
    if (input.get_element_type() == ov::element::u8)
        std::copy_n(image, input.get_size(), input.data<std::uint8_t>());
    else
        std::transform(image, image + input.get_size(), input.data<float>(),
                       [](std::uint8_t value) { return value / 255.0F; });

    if (!started_) request.reset_state();
    request.infer();
    if (!started_) {  // as if the first image had always been there: its state is the past of all requests
        std::vector<ov::VariableState> first = request.query_state();
        for (std::size_t other = 1; other < requests_.size(); ++other) {
            std::vector<ov::VariableState> states = requests_[other].query_state();
            for (std::size_t i = 0; i < states.size(); ++i) states[i].set_state(first[i].get_state());
        }
        started_ = true;
    }
    turn_ = (turn_ + 1) % requests_.size();

    const float* raw = request.get_output_tensor().data<float>();
    std::copy_n(raw, map_.size(), map_.begin());
    if (values_ == "log") {
        const float highest = *std::max_element(map_.begin(), map_.end());
        for (float& value : map_) value = std::exp(value - highest);
    }
    for (float& value : map_) {
        if (!std::isfinite(value))  // damaged weights give NaN, not an error
            throw Error(path_ + ": the map contains NaN or infinity, because the weights are damaged; "
                        "copy or export the model again");
        value = std::clamp(value, 0.0F, 1.0F);
    }
    return map_;
}

Stream::Stream(Student& student, std::optional<double> cuts)
    : student_(student), image_(3 * student.size().area()) {
    if (cuts) cuts_.emplace(student.size(), *cuts);
}

const std::vector<float>& Stream::operator()(const std::uint8_t* frame, Size size) {
    if (!(size == frame_)) {
        frame_ = size;
        placer_.emplace(student_.fit(), size, student_.size());
        unplacer_.emplace(student_.fit(), size, student_.size(), student_.map_size());
    }
    (*placer_)(frame, image_.data());
    if (cuts_ && (*cuts_)(image_.data(), placer_->share())) {
        student_.reset();
        ++resets_;
    }
    std::vector<float>& map = student_.step(image_.data());
    if (student_.fit() == Fit::stretch) return map;
    (*unplacer_)(map);
    const float highest = *std::max_element(map.begin(), map.end());
    if (student_.peaked() && highest > 0)
        for (float& value : map) value /= highest;
    return map;
}

}  // namespace saliency
