// A streaming student that was exported to ONNX, run by onnxruntime-web. Nothing in here knows a page, so it runs in
// a browser and in Node alike:
//
//     import * as ort from "onnxruntime-web/wasm";
//     const model = await Model.load(ort, bytes);    // a Uint8Array: the .onnx file
//     const stream = new Stream(model);
//     const map = await stream.next(pixels);         // Float32Array of model.mapWidth * model.mapHeight, in [0, 1]
//
// `pixels` are the bytes of one frame, RGB or RGBA, row by row, model.width by model.height. What the file is stands
// in it, as JSON under the metadata key "saldistill"; student/README.md describes its inputs, outputs and state.

import { Cuts } from "./cuts.js";

const METADATA_KEY = "saldistill";
const FORMAT = 2;

/** A mistake that its sentence explains to whoever chose the file. */
export class UserError extends Error {}

/** An exported student in step mode: a frame and a state go in, a map and the next state come out. */
export class Model {
  /**
   * Load a model.
   *
   * @param ort the module of onnxruntime-web.
   * @param {Uint8Array} bytes the .onnx file; empty afterwards where the network runs on a thread of its own.
   * @param {string} name what to call the file in sentences.
   * @throws {UserError} it is no ONNX file, not one of ours, or not in step mode.
   */
  static async load(ort, bytes, name = "the file") {
    const metadata = readMetadata(bytes, name);
    try {
      return new Model(ort, await ort.InferenceSession.create(bytes), metadata);
    } catch (error) {
      throw new UserError(`${name}: onnxruntime-web cannot load it: ${firstLine(error)}`);
    }
  }

  constructor(ort, session, metadata) {
    this.ort = ort;
    this.session = session;
    /** Everything the file says about itself. */
    this.metadata = metadata;
    [this.height, this.width] = metadata.size;
    [this.mapHeight, this.mapWidth] = metadata.map_size;
  }

  /** Return the state before a video's first frame and after a cut: zeros, which say that nothing started. */
  initialState() {
    const zeros = ({ input, shape }) => {
      const sizes = [1, ...shape.slice(1)];
      const length = sizes.reduce((product, side) => product * side);
      return [input, new this.ort.Tensor("float32", new Float32Array(length), sizes)];
    };
    return Object.fromEntries(this.metadata.state.map(zeros));
  }

  /**
   * Return the map of one frame, and the state for the next one.
   *
   * @param {Uint8Array | Uint8ClampedArray} pixels RGB or RGBA, row by row.
   * @param state from the step before, or `initialState`. It must not be used again: a browser may move its memory
   *     to the thread that runs the network.
   */
  async step(pixels, state) {
    const { input, output, state: states } = this.metadata;
    const frame = new this.ort.Tensor(input.type, this.planes(pixels), [1, 3, this.height, this.width]);
    const results = await this.session.run({ [input.name]: frame, ...state });
    const next = states.map(({ input, output }) => [input, results[output]]);
    return { map: inUnitRange(results[output.name].data, output.values), state: Object.fromEntries(next) };
  }

  /** Return pixels, RGB or RGBA, as the network takes them: all red values, then all green, then all blue. */
  planes(pixels) {
    const area = this.height * this.width;
    const channels = pixels.length / area;
    if (channels !== 3 && channels !== 4) {
      throw new UserError(
        `a frame of ${pixels.length} bytes; expected ${this.width} x ${this.height} pixels, RGB or RGBA`,
      );
    }
    const floats = this.metadata.input.type === "float32"; // in [0, 1]; else bytes
    const values = floats ? new Float32Array(3 * area) : new Uint8Array(3 * area);
    const scale = floats ? 1 / 255 : 1;
    for (let pixel = 0, from = 0; pixel < area; pixel++, from += channels) {
      values[pixel] = pixels[from] * scale;
      values[pixel + area] = pixels[from + 1] * scale;
      values[pixel + 2 * area] = pixels[from + 2] * scale;
    }
    return values;
  }
}

/** A video's frames, one after the other: keeps the state between them, and begins anew at scene cuts. */
export class Stream {
  constructor(model) {
    this.model = model;
    this.cuts = new Cuts(model.width, model.height);
    this.reset();
  }

  /** Forget the past: the next frame is a first frame. */
  reset() {
    this.state = null;
  }

  /** Return the map of the next frame. The one before must be finished. */
  async next(pixels) {
    if (this.cuts.next(pixels)) this.reset();
    const { map, state } = await this.model.step(pixels, this.state ?? this.model.initialState());
    this.state = state;
    return map;
  }
}

/**
 * Read what an exported file says about itself. onnxruntime-web does not tell, so this walks the outermost fields of
 * the file, a protobuf message; `metadata_props` is field 14 of ONNX's ModelProto.
 *
 * @throws {UserError} it is no ONNX file, not one of ours, or not in step mode.
 */
export function readMetadata(bytes, name = "the file") {
  let metadata = null;
  try {
    for (const [field, value] of fields(bytes)) {
      if (field !== 14) continue;
      const entry = Object.fromEntries([...fields(value)].map(([key, text]) => [key, decode(text)]));
      if (entry[1] === METADATA_KEY) metadata = JSON.parse(entry[2]);
    }
  } catch {
    throw new UserError(`${name}: not an ONNX file; expected one that \`saldistill export\` wrote`);
  }
  if (metadata === null) {
    throw new UserError(
      `${name}: an ONNX file of something else; expected one that \`saldistill export\` wrote`,
    );
  }
  if (metadata.mode === "clip") {
    throw new UserError(
      `${name}: it needs ${metadata.frames} frames at once for each map; expected a streaming student ` +
        "(exported in step mode), which takes them one by one",
    );
  }
  if (metadata.format !== FORMAT || metadata.mode !== "step") {
    throw new UserError(
      `${name}: written in format ${metadata.format}, mode ${metadata.mode}; this page knows format ${FORMAT}, ` +
        "mode step: build the page with the version that exported the file",
    );
  }
  return metadata;
}

/** Go through the fields of a protobuf message: [number, bytes], the bytes null where the value is a number. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (place >= bytes.length || factor > 2 ** 63) throw new Error("not a protobuf message");
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const tag = varint();
    const length = { 0: () => (varint(), 0), 1: () => 8, 2: varint, 5: () => 4 }[tag % 8]?.();
    if (length === undefined || place + length > bytes.length) throw new Error("not a protobuf message");
    yield [Math.floor(tag / 8), tag % 8 === 2 ? bytes.subarray(place, place + length) : null];
    place += length;
  }
}

const decode = (bytes) => new TextDecoder().decode(bytes);

const firstLine = (error) => String(error?.message ?? error).split("\n")[0];

/** Return a map's values in [0, 1]; a log-map becomes exp(log - its maximum). */
function inUnitRange(values, meaning) {
  if (meaning === "log") {
    const highest = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return values.map((value) => Math.exp(value - highest));
  }
  return values.map((value) => Math.min(1, Math.max(0, value)));
}
