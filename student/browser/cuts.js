// Scene cuts as in student/edge.py: a frame is a cut if its difference from the previous frame rises sharply. Frames
// are compared by averages of 12 x 20 blocks, which noise and most motion hardly change.

const ROWS = 12;
const COLUMNS = 20;
const RISE = 0.1; // in the mean absolute difference, which is 1 from black to white

export class Cuts {
  constructor(width, height) {
    this.blocks = null;
    this.difference = 0;
    this.places = new Uint16Array(width * height); // index of each pixel's block in the averages (red, green, blue)
    this.sizes = new Uint32Array(3 * ROWS * COLUMNS);
    for (let pixel = 0; pixel < this.places.length; pixel++) {
      const row = Math.floor((Math.floor(pixel / width) * ROWS) / height);
      const column = Math.floor(((pixel % width) * COLUMNS) / width);
      this.places[pixel] = 3 * (row * COLUMNS + column);
      this.sizes[this.places[pixel]]++;
    }
  }

  /**
   * Return whether the next frame (RGB or RGBA, row-major) starts a new scene.
   *
   * @param {number} share share of the pixels that are not padding, which never differs.
   */
  next(pixels, share = 1) {
    const last = this.blocks;
    this.blocks = this.averages(pixels);
    const sum = last ? this.blocks.reduce((all, value, place) => all + Math.abs(value - last[place]), 0) : 0;
    const before = this.difference;
    this.difference = sum / this.blocks.length / share;
    return this.difference - before > RISE;
  }

  averages(pixels) {
    const channels = pixels.length / this.places.length;
    const sums = new Float64Array(3 * ROWS * COLUMNS);
    for (let pixel = 0, from = 0; from < pixels.length; pixel++, from += channels) {
      const place = this.places[pixel];
      sums[place] += pixels[from];
      sums[place + 1] += pixels[from + 1];
      sums[place + 2] += pixels[from + 2];
    }
    return sums.map((sum, place) => sum / this.sizes[place - (place % 3)] / 255);
  }
}
