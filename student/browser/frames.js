// From a playing <video> to maps: whenever the network is idle, it gets the current frame.

import { PADDING, placeOf } from "./fit.js";

const WINDOW = 2000; // ms: the rate is measured over the last two seconds
const KEPT = 500; // number of latencies kept for the percentiles

export class Frames {
  /**
   * @param {HTMLVideoElement} video source of the frames.
   * @param {function} onMap called with a map and its model.
   * @param {function} onFailure called with an error, after which the network stops.
   */
  constructor(video, { onMap, onFailure }) {
    [this.video, this.onMap, this.onFailure] = [video, onMap, onFailure];
    this.stream = null;
    this.busy = false;
    this.canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    this.restart();
    const onFrame = (now, frame) => {
      video.requestVideoFrameCallback(onFrame);
      if (this.stream && this.before && !isDue(frame, this.before, this.stride)) return;
      this.before = frame;
      if (this.waiting) this.missed++;
      this.waiting = true;
      this.work();
    };
    video.requestVideoFrameCallback?.(onFrame); // missing in old browsers: the page reports it
  }

  /** Switch to another stream, starting with the current frame. */
  use(stream) {
    this.stream = stream;
    this.stride = stream.model.metadata.notes?.stride ?? 1;
    this.restart();
    this.waiting = this.video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
    this.work();
  }

  /** Start over with another video: reset statistics and past. */
  restart() {
    [this.latencies, this.ends, this.missed] = [[], [], 0];
    this.forget();
  }

  /** Reset the past, e.g. after seeking: the next frame is a first frame. */
  forget() {
    this.before = null; // the last frame that was due
    this.waiting = false; // whether a frame is waiting for the network
    this.fresh = true; // whether the next frame is a first frame
  }

  /** Run the network on the current frame, and on the next one when it is done. */
  async work() {
    if (this.busy || !this.waiting || !this.stream) return;
    const { stream } = this;
    const started = performance.now();
    this.busy = true;
    this.waiting = false;
    if (this.fresh) stream.reset();
    this.fresh = false;
    try {
      const { videoHeight, videoWidth } = this.video;
      const map = await stream.next(this.grab(stream.model), [videoHeight, videoWidth]);
      if (stream === this.stream && !this.fresh) {
        this.onMap(map, stream.model);
        this.ends = [...this.ends, performance.now()].slice(-KEPT);
        this.latencies = [...this.latencies, performance.now() - started].slice(-KEPT);
      }
    } catch (error) {
      if (stream === this.stream) {
        this.stream = null;
        this.onFailure(error);
      }
    }
    this.busy = false;
    this.work();
  }

  /** Return the current frame on the network's input: RGBA, row-major. */
  grab({ width, height, fit }) {
    const { canvas } = this.canvas;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.canvas.imageSmoothingQuality = "high"; // resizing the canvas resets this
    const place = placeOf(fit, [this.video.videoHeight, this.video.videoWidth], [height, width]);
    if (fit === "letterbox") {
      this.canvas.fillStyle = `rgb(${PADDING}, ${PADDING}, ${PADDING})`;
      this.canvas.fillRect(0, 0, width, height);
    }
    this.canvas.drawImage(this.video, place.left, place.top, place.width, place.height);
    return this.canvas.getImageData(0, 0, width, height).data;
  }

  /** Return maps per second, two percentiles of the latency in ms, and the number of frames without a map. */
  figures() {
    const now = performance.now();
    const recent = this.ends.filter((end) => now - end < WINDOW);
    const sorted = [...this.latencies].sort((a, b) => a - b);
    const percentile = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    return {
      rate: recent.length > 1 ? (1000 * (recent.length - 1)) / (recent.at(-1) - recent[0]) : NaN,
      p50: percentile(0.5),
      p99: percentile(0.99),
      missed: this.missed,
    };
  }
}

/**
 * Return whether the distance between two frames has reached the stride of the network's training.
 *
 * @param frame metadata from `requestVideoFrameCallback`; `before` likewise.
 * @param {number | string} stride a number of frames, or a rate such as "25fps": the frames that are shown at
 *     25 ticks per second.
 */
export function isDue(frame, before, stride) {
  if (typeof stride === "number") return frame.presentedFrames - before.presentedFrames >= stride;
  const tick = ({ mediaTime }) => Math.floor(mediaTime * parseFloat(stride) + 0.25); // away from frame boundaries
  return tick(frame) !== tick(before);
}
