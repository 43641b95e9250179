// From a playing <video> to maps: whenever the network is free, it gets the frame that is on the screen.

const WINDOW = 2000; // ms: the rate is that of the last two seconds
const KEPT = 500; // so many latencies the percentiles are taken of

export class Frames {
  /**
   * @param {HTMLVideoElement} video where the frames come from.
   * @param {function} onMap gets a map, and the model that made it.
   * @param {function} onFailure gets an error, after which the network rests.
   */
  constructor(video, { onMap, onFailure }) {
    [this.video, this.onMap, this.onFailure] = [video, onMap, onFailure];
    this.stream = null;
    this.busy = false;
    this.canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    this.restart();
    const hear = (now, frame) => {
      video.requestVideoFrameCallback(hear);
      if (this.stream && this.before && !isDue(frame, this.before, this.stride)) return;
      this.before = frame;
      if (this.waiting) this.missed++;
      this.waiting = true;
      this.work();
    };
    video.requestVideoFrameCallback?.(hear); // an old browser has none: the page says so
  }

  /** Send the frames through another network from now on, beginning with the one on the screen. */
  use(stream) {
    this.stream = stream;
    this.stride = stream.model.metadata.notes?.stride ?? 1;
    this.restart();
    this.waiting = this.video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
    this.work();
  }

  /** Begin anew with another video: figures from zero, no past. */
  restart() {
    [this.latencies, this.ends, this.missed] = [[], [], 0];
    this.forget();
  }

  /** Forget the past, as after a jump to another place of the video: the next frame is a first frame. */
  forget() {
    this.before = null; // the last frame that was due
    this.waiting = false; // whether a frame waits for the network
    this.fresh = true; // whether the next frame is a first one
  }

  /** Run the frame on the screen, and the next one when it is done. */
  async work() {
    if (this.busy || !this.waiting || !this.stream) return;
    const { stream } = this;
    const started = performance.now();
    this.busy = true;
    this.waiting = false;
    if (this.fresh) stream.reset();
    this.fresh = false;
    try {
      const map = await stream.next(this.grab(stream.model));
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

  /** Return the frame on the screen at the network's size: RGBA, row by row. */
  grab({ width, height }) {
    const { canvas } = this.canvas;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.canvas.imageSmoothingQuality = "high"; // a new size makes a new canvas of it
    this.canvas.drawImage(this.video, 0, 0, width, height);
    return this.canvas.getImageData(0, 0, width, height).data;
  }

  /** Return maps a second, two percentiles of a frame's latency in ms, and how many frames got no map. */
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
 * Say whether a frame is as far from the one before as the network was trained with.
 *
 * @param frame what `requestVideoFrameCallback` tells about it; `before` alike.
 * @param {number | string} stride a number of frames, or a rate such as "25fps": the frames that are on the screen
 *     at so many ticks a second.
 */
export function isDue(frame, before, stride) {
  if (typeof stride === "number") return frame.presentedFrames - before.presentedFrames >= stride;
  const tick = ({ mediaTime }) => Math.floor(mediaTime * parseFloat(stride) + 0.25); // not at the edge of a frame
  return tick(frame) !== tick(before);
}
