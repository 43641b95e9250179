// The page: a video or the webcam goes through the network, and its map is laid over the picture.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { Frames } from "./frames.js";
import { paint } from "./heat.js";
import { Model, Stream, UserError } from "./model.js";

const element = (id) => document.getElementById(id);
const video = element("video");
const overlay = element("overlay");

ort.env.wasm.proxy = true; // the network gets a thread of its own: the page stays quick

let camera = null; // the webcam's stream while it is in use
let chosen = null; // the object URL of the video file in use
let shown = "the video"; // what to call it in sentences

const frames = new Frames(video, {
  onMap(map, { mapWidth, mapHeight }) {
    overlay.width = mapWidth;
    overlay.height = mapHeight;
    const context = overlay.getContext("2d");
    const image = context.createImageData(mapWidth, mapHeight);
    paint(map, image.data);
    context.putImageData(image, 0, 0);
  },
  onFailure: (error) => say(sentence(error), "bad"),
});

function say(text, kind = "") {
  const message = element("message");
  message.textContent = text;
  message.className = kind;
  message.hidden = text === "";
}

/** Turn what went wrong into a sentence for the person at the page. */
function sentence(error) {
  if (error instanceof UserError) return error.message;
  return (
    {
      NotAllowedError: "The camera was refused: allow it for this page in the browser, or choose a video.",
      NotFoundError: "There is no camera: connect one, or choose a video.",
      NotReadableError: "The camera cannot be read: another program may be using it.",
    }[error.name] ?? `Something went wrong: ${error.message}`
  );
}

// The network

async function loadModel(bytes, name) {
  say("Loading the network ...");
  const length = bytes.length; // 0 afterwards: the network's thread takes the bytes over
  const model = await Model.load(ort, bytes, name);
  const before = frames.stream;
  frames.use(new Stream(model));
  before?.model.session.release();
  describe(model.metadata, length);
  say("");
}

async function loadModelBeside() {
  const name = "student.onnx";
  const answer = await fetch(name);
  if (!answer.ok) {
    throw new UserError(
      `There is no ${name} beside this page: build the page again with scripts/build_browser_page, or choose a ` +
        "model below.",
    );
  }
  await loadModel(new Uint8Array(await answer.arrayBuffer()), name);
}

function describe(metadata, bytes) {
  const { model = {}, size, map_size: mapSize, reach, weights, precision, licence } = metadata;
  const millions = (number) => (number / 1e6).toFixed(number < 1e6 ? 2 : 1);
  const threads = ort.env.wasm.numThreads || 1;
  const rows = {
    Model: [model.name, model.variant].filter(Boolean).join("/") || "unnamed",
    Size: `${millions(bytes)} MB` + (weights ? `, ${millions(weights)} million weights` : ""),
    Precision: precision ?? "not stated",
    Frames: `${size[1]} x ${size[0]} pixels, one by one; a map depends on ${reach} of them`,
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
  overlay.width = 1; // clears it
  element("stage").className = "empty";
  element("pause").disabled = true;
}

async function play() {
  if (!video.requestVideoFrameCallback) {
    throw new UserError("This browser does not tell which frame it shows: update it, or use another.");
  }
  element("stage").className = "";
  element("pause").disabled = false;
  video.controls = chosen !== null;
  frames.restart();
  // what the browser cannot play tells an `error` event, and what it does not start by itself has a button
  await video.play().catch(() => {});
}

async function playFile(file) {
  release();
  say("");
  shown = file.name;
  chosen = URL.createObjectURL(file);
  video.src = chosen;
  await play();
}

async function playWebcam() {
  if (!navigator.mediaDevices) {
    throw new UserError("A browser opens the camera for pages from https or localhost only: open this one so.");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ video: true });
  release();
  say("");
  camera = stream;
  shown = "the camera";
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    release();
    say("The camera went away: connect it again and press the button, or choose a video.", "bad");
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

function refuseVideo(why) {
  release();
  say(`${shown}: ${why}`, "bad");
}

video.addEventListener("error", () => {
  if (chosen) refuseVideo("this browser cannot play it; expected a video such as H.264 in .mp4 or VP9 in .webm.");
});
video.addEventListener("loadedmetadata", () => {
  if (video.videoWidth === 0) refuseVideo("there is sound in it but no picture; expected a video.");
});
video.addEventListener("resize", () => {
  element("stage").style.setProperty("--ratio", video.videoWidth / video.videoHeight);
});
video.addEventListener("seeking", () => frames.forget()); // a video that loops seeks its beginning

// What the person does

/** Run what a person asked for; what goes wrong is said on the page. */
const ask = (action) => (event) => Promise.resolve(action(event)).catch((error) => say(sentence(error), "bad"));

for (const id of ["video-file", "model-file"]) {
  element(id).addEventListener("change", ask(async ({ target }) => {
    const [file] = target.files;
    await open(file);
    target.value = ""; // the same file may be chosen again
  }));
}
element("webcam").addEventListener("click", ask(playWebcam));
element("pause").addEventListener("click", ask(() => (video.paused ? video.play() : video.pause())));
for (const name of ["play", "pause"]) {
  video.addEventListener(name, () => (element("pause").textContent = video.paused ? "Go on" : "Pause"));
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

ask(loadModelBeside)();
