// How frames of another aspect ratio fill the network's input, as in student/edge.py: `stretch` scales them to it,
// `letterbox` keeps their aspect ratio and adds grey, `crop` keeps it and drops what does not fit.

export const FITS = ["stretch", "letterbox", "crop"];

export const PADDING = 128; // red, green and blue around a letterboxed frame

const MAX_ASPECT = 8; // content of `crop` is at most this many times as long as the input

/**
 * Return [height, width] to which a frame is scaled before it is placed on the input.
 *
 * @param {string} fit one of FITS.
 * @param {number[]} frame [height, width] of the frame in pixels.
 * @param {number[]} size [height, width] of the input.
 */
export function contentSize(fit, [height, width], [inputHeight, inputWidth]) {
  if (fit === "stretch") return [inputHeight, inputWidth];
  const taller = height * inputWidth > width * inputHeight;
  const scaled = (side, length, across) => Math.max(1, Math.floor((2 * side * length + across) / (2 * across)));
  if (taller === (fit === "letterbox")) {
    return [inputHeight, Math.min(scaled(width, inputHeight, height), MAX_ASPECT * inputWidth)];
  }
  return [Math.min(scaled(height, inputWidth, width), MAX_ASPECT * inputHeight), inputWidth];
}

/** Return where the frame lies on the input: {top, left, height, width} in pixels; top and left may be negative. */
export function placeOf(fit, frame, size) {
  const [height, width] = contentSize(fit, frame, size);
  return { top: Math.floor((size[0] - height) / 2), left: Math.floor((size[1] - width) / 2), height, width };
}

/** Return the share of the input that is not padding. */
export function shareOf(fit, frame, size) {
  const [height, width] = contentSize(fit, frame, size);
  return Math.min(1, (height * width) / (size[0] * size[1]));
}

/**
 * Return the raw map of an input as the map of the whole frame, at the same size; bilinear. The part of the frame outside
 * the input, which `crop` leaves out, is zero.
 *
 * @param {Float32Array} map row-major.
 * @param {number[]} mapSize [height, width] of the map.
 */
export function unfit(map, mapSize, fit, frame, size) {
  if (fit === "stretch") return map;
  const { top, left, height, width } = placeOf(fit, frame, size);
  const rows = taps(top / size[0], height / size[0], mapSize[0]);
  const columns = taps(left / size[1], width / size[1], mapSize[1]);
  const whole = new Float32Array(map.length);
  rows.forEach(([upper, lower, down], row) => {
    columns.forEach(([first, second, across], column) => {
      if (Number.isNaN(down + across)) return; // outside the input
      const [from, to] = [upper * mapSize[1], lower * mapSize[1]];
      const above = map[from + first] * (1 - across) + map[from + second] * across;
      const below = map[to + first] * (1 - across) + map[to + second] * across;
      whole[row * mapSize[1] + column] = above * (1 - down) + below * down;
    });
  });
  return whole;
}

/** Return for each new pixel of an axis two old pixels and the weight of the second one; NaN outside the input. */
function taps(first, length, count) {
  return Array.from({ length: count }, (_, pixel) => {
    const place = first + (length * (pixel + 0.5)) / count;
    const at = Math.min(count - 1, Math.max(0, place * count - 0.5));
    const low = Math.floor(at);
    return [low, Math.min(low + 1, count - 1), place < 0 || place > 1 ? NaN : at - low];
  });
}
