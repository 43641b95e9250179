// Runs an exported student on raw frames under Node, and says how fast it was. In this folder, once, `npm ci`; then
//
//     ffmpeg -i VIDEO -vf scale=384:224 -pix_fmt rgb24 -f rawvideo frames.rgb
//     node example.mjs student.onnx frames.rgb [maps.f32]
//
// frames.rgb holds frames of the model's size, RGB, one byte a colour; maps.f32 gets float32 maps, one after the
// other. The network runs in WebAssembly on one thread, as in a browser.

import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
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
  const maps = mapsFile && openSync(mapsFile, "wx"); // an existing file is not overwritten
  const pixels = new Uint8Array(3 * model.width * model.height);
  const times = [];
  while (readSync(frames, pixels) === pixels.length) {
    const started = performance.now();
    const map = await stream.next(pixels);
    times.push(performance.now() - started);
    if (maps) writeSync(maps, map);
  }
  closeSync(frames);
  times.sort((a, b) => a - b);
  const seconds = times.reduce((sum, time) => sum + time, 0) / 1000;
  const half = times[Math.floor(times.length / 2)];
  console.log(
    `${times.length} frames of ${model.width} x ${model.height}: ${(times.length / seconds).toFixed(1)} maps a ` +
      `second, half of them in at most ${half?.toFixed(1)} ms`,
  );
} catch (error) {
  console.error(`example.mjs: ${error.message}`);
  process.exitCode = 2;
}
