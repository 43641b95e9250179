// The page: runs the network on a video or the webcam, and draws the map over the picture.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { Frames } from "./frames.js";
import { paint } from "./heat.js";
import { Model, Stream, UserError } from "./model.js";

const element = (id) => document.getElementById(id);
const video = element("video");
const overlay = element("overlay");

ort.env.wasm.proxy = true; // run the network in a separate thread, so that the page stays responsive

let camera = null; // stream of the webcam, if it is in use
let chosen = null; // object URL of the video file, if it is in use
let shown = "the video"; // its name in messages

const frames = new Frames(video, {
  onMap(map, { mapWidth, mapHeight }) {
    overlay.width = mapWidth;
    overlay.height = mapHeight;
    const context = overlay.getContext("2d");
    const image = context.createImageData(mapWidth, mapHeight);
    paint(map, image.data);
    context.putImageData(image, 0, 0);
  },
  onFailure: (error) => showMessage(userMessage(error), "bad"),
});

function showMessage(text, kind = "") {
  const message = element("message");
  message.textContent = text;
  message.className = kind;
  message.hidden = text === "";
}

/** Return an error message for the user. */
function userMessage(error) {
  if (error instanceof UserError) return error.message;
  return (
    {
      NotAllowedError: "Camera access was denied: allow it for this page in the browser, or choose a video.",
      NotFoundError: "No camera found: connect one, or choose a video.",
      NotReadableError: "The camera cannot be opened: another program may be using it.",
    }[error.name] ?? `Something went wrong: ${error.message}`
  );
}

// The network

async function loadModel(bytes, name) {
  showMessage("Loading the network ...");
  const length = bytes.length; // read it first: the bytes are transferred to the network's thread
  const model = await Model.load(ort, bytes, name);
  const before = frames.stream;
  frames.use(new Stream(model));
  before?.model.session.release();
  describe(model.metadata, length);
  showMessage("");
}

async function loadDefaultModel() {
  const name = "student.onnx";
  const answer = await fetch(name);
  if (!answer.ok) {
    throw new UserError(
      `${name} is missing: rebuild the page with saldistill page, or choose a model below.`,
    );
  }
  await loadModel(new Uint8Array(await answer.arrayBuffer()), name);
}

function describe(metadata, bytes) {
  const { model = {}, size, map_size: mapSize, fit = "stretch", reach, weights, precision, licence } = metadata;
  const millions = (number) => (number / 1e6).toFixed(number < 1e6 ? 2 : 1);
  const threads = ort.env.wasm.numThreads || 1;
  const rows = {
    Model: [model.name, model.variant].filter(Boolean).join("/") || "unnamed",
    Size: `${millions(bytes)} MB` + (weights ? `, ${millions(weights)} million weights` : ""),
    Precision: precision ?? "not stated",
    Frames: `${size[1]} x ${size[0]} pixels (${fit}), one at a time; a map depends on ${reach} frames`,
    Maps: `${mapSize[1]} x ${mapSize[0]}`,
    Licence: licence ?? "not stated",
    Threads: threads === 1 && !self.crossOriginIsolated ? "1 (the server does not allow more)" : threads,
  };
  element("about").replaceChildren(
    ...Object.entries(rows).flatMap(([name, value]) => {
      const [term, text] = ["dt", "dd"].map((tag) => document.createElement(tag));
      [term.textContent, text.textContent] = [name, value];
      return [term, text];
    }),
  );
}

// Where the frames come from

function release() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  if (chosen) URL.revokeObjectURL(chosen);
  chosen = null;
  overlay.width = 1; // clears the canvas
  element("stage").className = "empty";
  element("pause").disabled = true;
}

async function play() {
  if (!video.requestVideoFrameCallback) {
    throw new UserError("This browser does not support requestVideoFrameCallback: update it, or use another one.");
  }
  element("stage").className = "";
  element("pause").disabled = false;
  video.controls = chosen !== null;
  frames.restart();
  // playback errors raise an `error` event; if autoplay is blocked, there is a button
  await video.play().catch(() => {});
}

async function playFile(file) {
  release();
  showMessage("");
  shown = file.name;
  chosen = URL.createObjectURL(file);
  video.src = chosen;
  await play();
}

async function playWebcam() {
  if (!navigator.mediaDevices) {
    throw new UserError("Browsers allow the camera on https and localhost only: open this page from one of them.");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ video: true });
  release();
  showMessage("");
  camera = stream;
  shown = "the camera";
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    release();
    showMessage("The camera was disconnected: connect it again and press the button, or choose a video.", "bad");
  });
  video.srcObject = stream;
  await play();
}

async function open(file) {
  if (!file) return;
  if (file.name.toLowerCase().endsWith(".onnx")) {
    await loadModel(new Uint8Array(await file.arrayBuffer()), file.name);
  } else {
    await playFile(file);
  }
}

function rejectVideo(why) {
  release();
  showMessage(`${shown}: ${why}`, "bad");
}

video.addEventListener("error", () => {
  if (chosen) rejectVideo("this browser cannot play it; expected a video such as H.264 in .mp4 or VP9 in .webm.");
});
video.addEventListener("loadedmetadata", () => {
  if (video.videoWidth === 0) rejectVideo("has sound but no video; expected a video.");
});
video.addEventListener("resize", () => {
  element("stage").style.setProperty("--ratio", video.videoWidth / video.videoHeight);
});
video.addEventListener("seeking", () => frames.forget()); // looping seeks to the start

// User input

/** Run an action and show its error, if any. */
const ask = (action) => (event) => Promise.resolve(action(event)).catch((error) => showMessage(userMessage(error), "bad"));

for (const id of ["video-file", "model-file"]) {
  element(id).addEventListener("change", ask(async ({ target }) => {
    const [file] = target.files;
    await open(file);
    target.value = ""; // so that the same file can be chosen again
  }));
}
element("webcam").addEventListener("click", ask(playWebcam));
element("pause").addEventListener("click", ask(() => (video.paused ? video.play() : video.pause())));
for (const name of ["play", "pause"]) {
  video.addEventListener(name, () => (element("pause").textContent = video.paused ? "Resume" : "Pause"));
}

const fade = () => (overlay.style.opacity = element("strength").value);
element("strength").addEventListener("input", fade);
fade();

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.className = "dropping";
});
addEventListener("dragleave", () => (document.body.className = ""));
addEventListener("drop", ask((event) => {
  event.preventDefault();
  document.body.className = "";
  return open(event.dataTransfer.files[0]);
}));

setInterval(() => {
  const { rate, p50, p99, missed } = frames.figures();
  const text = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  element("rate").textContent = text(rate, 1);
  element("p50").textContent = text(p50, 0);
  element("p99").textContent = text(p99, 0);
  element("missed").textContent = text(missed, 0);
}, 500);

ask(loadDefaultModel)();
