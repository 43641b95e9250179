// Run an exported streaming student in onnxruntime-web, in a browser or in Node:
//
//     import * as ort from "onnxruntime-web/wasm";
//     const model = await Model.load(ort, bytes);    // Uint8Array: the .onnx file
//     const stream = new Stream(model);
//     const map = await stream.next(pixels);         // Float32Array of model.mapWidth * model.mapHeight, in [0, 1]
//
// `pixels` are the bytes of one frame, RGB or RGBA, row-major, model.width by model.height. If the frame had another size
// before, pass it, and place it as its `fit` says (fit.js): the map is that of the whole frame. The file describes itself in
// JSON under the metadata key "saldistill"; student/README.md documents its inputs, outputs and state.

import { Cuts } from "./cuts.js";
import { FITS, shareOf, unfit } from "./fit.js";

const METADATA_KEY = "saldistill";
const CHECKSUM_KEY = "saldistill_sha256";
const FORMATS = [2, 3]; // 3: a fit other than stretch
const MAX_SIDE = 8192; // of frames and maps
const MAX_STRIDE = 1000; // frames, or frames per second
const MAX_STATE = 2 ** 29; // numbers in the state, 2 GB

/** An error whose message is meant for the user. */
export class UserError extends Error {}

/** An exported student in step mode: frame and state in, map and next state out. */
export class Model {
  /**
   * Load a model.
   *
   * @param ort module of onnxruntime-web.
   * @param {Uint8Array} bytes the .onnx file; empty afterwards if the network runs in a separate thread.
   * @param {string} name name of the file in messages.
   * @throws {UserError} the file is not an ONNX file, not exported by this project, or not in step mode.
   */
  static async load(ort, bytes, name = "the file") {
    const metadata = readMetadata(bytes, name);
    await checkFile(bytes, name);
    let session;
    try {
      session = await ort.InferenceSession.create(bytes);
    } catch (error) {
      throw new UserError(`${name}: onnxruntime-web cannot load it: ${firstLine(error)}`);
    }
    const { input, output, state } = metadata;
    const same = (names, tensors) => String([...names].sort()) === String(tensors.sort());
    if (
      !same(session.inputNames, [input.name, ...state.map((each) => each.input)]) ||
      !same(session.outputNames, [output.name, ...state.map((each) => each.output)])
    ) {
      throw new UserError(`${name}: inputs, outputs or state differ from the metadata; export the model again`);
    }
    return new Model(ort, session, metadata);
  }

  constructor(ort, session, metadata) {
    this.ort = ort;
    this.session = session;
    /** Metadata of the file. */
    this.metadata = metadata;
    [this.height, this.width] = metadata.size;
    [this.mapHeight, this.mapWidth] = metadata.map_size;
    /** How frames of another aspect ratio fill the input, one of FITS. */
    this.fit = metadata.fit ?? "stretch";
  }

  /** Return the state before a video's first frame and after a cut: zeros. */
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
   * @param {Uint8Array | Uint8ClampedArray} pixels RGB or RGBA, row-major.
   * @param state from the previous step, or `initialState`. It must not be used again: a browser may transfer its
   *     memory to the network's thread.
   * @throws {UserError} the pixels are of another size, or the map contains NaN or infinity.
   */
  async step(pixels, state) {
    const { input, output, state: states } = this.metadata;
    const frame = new this.ort.Tensor(input.type, this.planes(pixels), [1, 3, this.height, this.width]);
    const results = await this.session.run({ [input.name]: frame, ...state });
    const next = states.map(({ input, output }) => [input, results[output]]);
    const map = inUnitRange(results[output.name].data, output.values);
    if (map.length !== this.mapHeight * this.mapWidth || !map.every(Number.isFinite)) {
      throw new UserError(
        "The map contains NaN or infinity, or has another size than the file says: its weights are damaged or its " +
          "training diverged; copy or export the file again",
      );
    }
    return { map, state: Object.fromEntries(next) };
  }

  /** Convert RGB or RGBA pixels to the network's input: planes of red, green and blue. */
  planes(pixels) {
    const area = this.height * this.width;
    const channels = pixels.length / area;
    if (channels !== 3 && channels !== 4) {
      throw new UserError(
        `frame: expected ${this.width} x ${this.height} pixels, RGB or RGBA, got ${pixels.length} bytes`,
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

/** Runs a model over the frames of a video: keeps the state, and starts over at scene cuts. */
export class Stream {
  constructor(model) {
    this.model = model;
    this.cuts = new Cuts(model.width, model.height);
    this.reset();
  }

  /** Start over: the next frame is a first frame. */
  reset() {
    this.state = null;
  }

  /**
   * Return the map of the next frame. The previous call must have finished.
   *
   * @param {Uint8Array | Uint8ClampedArray} pixels the frame, placed on the model's input as its `fit` says.
   * @param {number[]} frame [height, width] of the frame before that; defaults to the input's.
   */
  async next(pixels, frame = this.model.metadata.size) {
    const { fit, metadata } = this.model;
    if (this.cuts.next(pixels, shareOf(fit, frame, metadata.size))) this.reset();
    const { map, state } = await this.model.step(pixels, this.state ?? this.model.initialState());
    this.state = state;
    if (fit === "stretch") return map;
    const whole = unfit(map, metadata.map_size, fit, frame, metadata.size);
    const highest = metadata.output.values === "sigmoid" ? 1 : whole.reduce((a, b) => Math.max(a, b), 0) || 1;
    return whole.map((value) => value / highest);
  }
}

/**
 * Return the metadata of an exported file. onnxruntime-web does not provide it, so this reads the outermost fields of the
 * file, a protobuf message; `metadata_props` is field 14 of ONNX's ModelProto.
 *
 * @throws {UserError} the file is not an ONNX file, not exported by this project, or not in step mode.
 */
export function readMetadata(bytes, name = "the file") {
  const text = property(bytes, METADATA_KEY, name);
  if (text === null) {
    throw new UserError(
      `${name}: has no "${METADATA_KEY}" metadata; expected an ONNX file written by \`saldistill export\``,
    );
  }
  let metadata = null;
  try {
    metadata = JSON.parse(text);
  } catch {
    // not JSON, or nested too deeply: reported below
  }
  if (!isObject(metadata)) {
    throw new UserError(`${name}: its "${METADATA_KEY}" metadata is invalid: not a JSON object; export the model again`);
  }
  if (metadata.mode === "clip") {
    throw new UserError(
      `${name}: takes clips of ${metadata.frames} frames; expected a streaming student exported in step mode`,
    );
  }
  if (!FORMATS.includes(metadata.format) || metadata.mode !== "step") {
    throw new UserError(
      `${name}: has format ${short(metadata.format)}, mode ${short(metadata.mode)}; expected format ` +
        `${FORMATS.join(" or ")}, mode step; build the page with the version that exported the file`,
    );
  }
  for (const [key, valid] of checks(metadata)) {
    if (!valid) {
      throw new UserError(
        `${name}: its "${METADATA_KEY}" metadata is invalid: ${key} is ` +
          `${short(metadata[key])}; export the model again`,
      );
    }
  }
  return metadata;
}

/**
 * Compare the checksum of an exported file, which is its SHA-256 with zeros in place of the checksum. Files of earlier
 * versions have none, and browsers compute it on https and localhost only.
 *
 * @throws {UserError} the file was damaged or changed.
 */
async function checkFile(bytes, name) {
  const recorded = property(bytes, CHECKSUM_KEY, name);
  if (recorded === null || !globalThis.crypto?.subtle) return;
  const entry = new TextEncoder().encode(`${CHECKSUM_KEY}\x12\x40${recorded}`);
  const zeroed = bytes.slice();
  for (let place = bytes.indexOf(entry[0]); place >= 0; place = bytes.indexOf(entry[0], place + 1)) {
    const end = place + entry.length;
    if (entry.every((byte, index) => bytes[place + index] === byte)) zeroed.fill(48, end - 64, end);
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", zeroed));
  if ([...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("") !== recorded) {
    throw new UserError(
      `${name}: its checksum differs, so that it was damaged or changed after the export; copy or export it again`,
    );
  }
}

/** Return a property of an ONNX file; null if it is missing. */
function property(bytes, key, name) {
  let found = null;
  try {
    for (const [field, value] of fields(bytes)) {
      if (field !== 14) continue;
      const entry = Object.fromEntries([...fields(value)].map(([key, text]) => [key, decode(text)]));
      if (entry[1] === key) found = entry[2];
    }
  } catch {
    throw new UserError(`${name}: not an ONNX file; expected one written by \`saldistill export\``);
  }
  return found;
}

/** Return pairs of a key of the metadata and whether its value has the documented type and range. */
function checks(metadata) {
  const { size, map_size: mapSize, fit, reach, input, output, state, notes, model, weights, precision, licence } = metadata;
  const isSize = (value) => isList(value, MAX_SIDE) && value.length === 2;
  const isText = (value) => value === undefined || typeof value === "string";
  const isName = (value) => typeof value === "string" && value !== "";
  const isTensor = (each) =>
    isObject(each) && isName(each.input) && isName(each.output) && Array.isArray(each.shape) &&
    isList(each.shape.slice(1), MAX_STATE);
  const product = (sizes) => sizes.reduce((all, each) => all * each, 1);
  const fits = (tensors) => tensors.reduce((sum, { shape }) => sum + product(shape.slice(1)), 0) <= MAX_STATE;
  return [
    ["size", isSize(size)],
    ["map_size", isSize(mapSize)],
    ["fit", fit === undefined || FITS.includes(fit)],
    ["reach", isCount(reach, MAX_SIDE)],
    ["input", isObject(input) && isName(input.name) && ["uint8", "float32"].includes(input.type)],
    ["output", isObject(output) && isName(output.name) && ["peak", "sigmoid", "log"].includes(output.values)],
    ["state", Array.isArray(state) && state.every(isTensor) && fits(state)],
    ["notes", notes === undefined || notes === null || (isObject(notes) && isStride(notes.stride ?? 1))],
    ["model", model === undefined || (isObject(model) && isText(model.name) && isText(model.variant ?? undefined))],
    ["weights", weights === undefined || weights === 0 || isCount(weights, Number.MAX_SAFE_INTEGER)],
    ["precision", isText(precision)],
    ["licence", isText(licence)],
  ];
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const isCount = (value, most) => Number.isInteger(value) && value >= 1 && value <= most;

const isList = (value, most) => Array.isArray(value) && value.length > 0 && value.every((each) => isCount(each, most));

const isStride = (value) =>
  isCount(value, MAX_STRIDE) ||
  (/^[0-9]{1,9}(\.[0-9]{1,9})? ?fps$/.test(value) && parseFloat(value) > 0 && parseFloat(value) <= MAX_STRIDE);

const short = (value) => {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 40 ? `${text.slice(0, 37)}...` : text;
};

/** Yield the fields of a protobuf message as [number, bytes]; the bytes are null for numeric values. */
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

/** Return a map's values in [0, 1], NaN and infinity as NaN; log-saliency becomes exp(value - maximum). */
function inUnitRange(values, meaning) {
  if (meaning === "log") {
    const highest = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return values.map((value) => Math.exp(value - highest));
  }
  return values.map((value) => (Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : NaN));
}
