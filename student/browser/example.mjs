// Run an exported student on raw frames in Node and print its speed. Run `npm ci` in this folder once, then
//
//     ffmpeg -i VIDEO -vf scale=384:224 -pix_fmt rgb24 -f rawvideo frames.rgb
//     node example.mjs student.onnx frames.rgb [maps.f32]
//
// frames.rgb has RGB frames of the model's size, one byte per channel; maps.f32 receives float32 maps. The network runs
// in WebAssembly on one thread, as in a browser.

import { closeSync, existsSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import * as ort from "onnxruntime-web/wasm";
import { Model, Stream } from "./model.js";

const [modelFile, framesFile, mapsFile] = process.argv.slice(2);
if (!framesFile) {
  console.error("usage: node example.mjs student.onnx frames.rgb [maps.f32]");
  process.exit(2);
}

ort.env.wasm.numThreads = 1;
try {
  const model = await Model.load(ort, new Uint8Array(readFileSync(modelFile)), modelFile);
  const stream = new Stream(model);
  const frames = openSync(framesFile);
  if (mapsFile && existsSync(mapsFile)) throw new Error(`${mapsFile}: already exists; choose another name`);
  let maps = null; // opened for the first map, so that a model without a valid map writes nothing
  const pixels = new Uint8Array(3 * model.width * model.height);
  const times = [];
  while (readSync(frames, pixels) === pixels.length) {
    const started = performance.now();
    const map = await stream.next(pixels);
    times.push(performance.now() - started);
    if (mapsFile) writeSync((maps ??= openSync(mapsFile, "wx")), map);
  }
  closeSync(frames);
  times.sort((a, b) => a - b);
  const seconds = times.reduce((sum, time) => sum + time, 0) / 1000;
  const half = times[Math.floor(times.length / 2)];
  console.log(
    `${times.length} frames of ${model.width} x ${model.height}: ${(times.length / seconds).toFixed(1)} maps per ` +
      `second, median ${half?.toFixed(1)} ms`,
  );
} catch (error) {
  console.error(`example.mjs: ${error.message}`);
  process.exitCode = 2;
}
