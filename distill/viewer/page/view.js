// The page of `saldistill view`: asks the server for panels and scores by index, and keeps the next ones ready.

const KEPT_PICTURES = 160;
const AHEAD = 6;
const RETRY_MS = 250;
const POLL_MS = 1000;
const SHOWN_METRICS = ["nss", "cc", "sim"];

const $ = (id) => document.getElementById(id);
const state = { view: null, video: 0, place: 0, info: null, scores: null, playing: false, draw: "overlay", gaze: true };
let hidden = new Set();
let metrics = new Set();
let figures = [];
let charts = [];
let generation = 0; // raised whenever what is shown changes, so that late answers are dropped
let pollTimer = 0;

async function get(path) {
  const answer = await fetch(path);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error || answer.statusText);
  return content;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function fail(error) {
  $("message").hidden = false;
  $("message").textContent = error instanceof TypeError ? "The viewer has ended; start it again." : error.message;
}

// ---------------------------------------------------------------------------------------------- pictures

const pictures = new Map(); // address -> promise of {url}, {waiting} or {error}; least recently used first

function picture(video, place, panel) {
  const gaze = state.gaze ? 1 : 0;
  const draw = panel ? state.draw : "overlay";
  const address = `/api/videos/${video}/frames/${place}/panels/${panel}?draw=${draw}&gaze=${gaze}`;
  let found = pictures.get(address);
  if (!found) {
    found = load(address);
    found.then((result) => { if (!result.url) pictures.delete(address); });
  }
  pictures.delete(address);
  pictures.set(address, found);
  if (pictures.size > KEPT_PICTURES) {
    const [oldest, promise] = pictures.entries().next().value;
    pictures.delete(oldest);
    promise.then((result) => { if (result.url) URL.revokeObjectURL(result.url); });
  }
  return found;
}

async function load(address) {
  try {
    const answer = await fetch(address);
    if (answer.status === 202) return { waiting: true };
    if (!answer.ok) return { error: (await answer.json()).error };
    return { url: URL.createObjectURL(await answer.blob()) };
  } catch {
    return { error: "The viewer has ended; start it again." };
  }
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const visible = () => state.view.panels.map((_, index) => index).filter((index) => !hidden.has(index));

// Show one frame in all panels; resolves when every picture is there, to false if something else is shown by then.
async function show(place, { wait = true } = {}) {
  const mine = ++generation;
  state.place = place;
  movePosition();
  fetch(`/api/videos/${state.video}/frames/${place}/viewed`).catch(() => {});
  await Promise.all(visible().map(async (panel) => {
    const figure = figures[panel];
    for (;;) {
      const result = await picture(state.video, place, panel);
      if (mine !== generation) return;
      if (result.url) {
        figure.image.src = result.url;
        await figure.image.decode().catch(() => {});
        if (mine === generation) figure.message.hidden = true;
        return;
      }
      figure.message.textContent = result.error || "predicting …";
      figure.message.hidden = false;
      if (result.error || !wait) return;
      await sleep(RETRY_MS);
      if (mine !== generation) return;
    }
  }));
  return mine === generation;
}

function prefetch(step) {
  for (let ahead = 1; ahead <= AHEAD; ahead++) {
    const place = state.place + ahead * step;
    if (place < state.info.numbers.length) visible().forEach((panel) => picture(state.video, place, panel));
  }
}

// ---------------------------------------------------------------------------------------------- playback

async function play() {
  if (state.playing) return pause();
  const last = state.info.numbers.length - 1;
  if (state.place >= last) await show(0);
  state.playing = true;
  updatePlay();
  let start = performance.now();
  let from = state.place;
  let step = 1;
  while (state.playing && state.place < last) {
    const rate = state.info.fps * Number($("speed").value);
    const spacing = Math.max(1, (state.info.numbers[last] - state.info.numbers[0]) / Math.max(1, last));
    const perSecond = rate / spacing;
    const due = from + Math.floor(((performance.now() - start) / 1000) * perSecond);
    const next = Math.min(last, Math.max(state.place + 1, due));
    step = next - state.place;
    if (step > 4 * Math.max(1, perSecond)) { start = performance.now(); from = state.place; continue; } // after a stall
    const early = (next - from) / perSecond * 1000 - (performance.now() - start);
    if (early > 0) await sleep(early);
    if (!state.playing) break;
    const began = performance.now();
    if (!(await show(next))) break;
    if (performance.now() - began > 400) { start = performance.now(); from = state.place; }
    prefetch(step);
  }
  if (state.playing) pause();
}

function pause() {
  state.playing = false;
  updatePlay();
}

function updatePlay() {
  $("play").textContent = state.playing ? "❚❚" : "▶";
  $("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
}

function seek(place) {
  pause();
  const last = state.info.numbers.length - 1;
  show(Math.min(last, Math.max(0, place))).then((current) => { if (current) prefetch(1); });
}

function movePosition() {
  const { numbers, fps } = state.info;
  $("slider").value = state.place;
  $("position").textContent = `frame ${numbers[state.place]} · ${((numbers[state.place] - 1) / fps).toFixed(2)} s`;
  $("slider").setAttribute("aria-valuetext", $("position").textContent);
  updateValues();
}

// ---------------------------------------------------------------------------------------------- scores

const format = (value) => (value === null || value === undefined ? "–" : value.toFixed(Math.abs(value) < 10 ? 3 : 1));

function updateValues() {
  const series = state.scores ? state.scores.series : [];
  for (const figure of figures) {
    const found = series.find((each) => each.name === figure.title);
    const parts = found ? state.view.metrics.filter((metric) => metrics.has(metric.name))
      .map((metric) => `${metric.title} ${format(found.values[metric.name][state.place])}`) : [];
    figure.values.textContent = parts.some((part) => !part.endsWith("–")) ? parts.join(" · ") : "";
  }
  const last = Math.max(1, state.info.numbers.length - 1);
  for (const chart of charts) {
    chart.cursor.style.left = `${(state.place / last) * 100}%`;
    chart.values.forEach((node, index) => {
      node.textContent = `${series[index] ? series[index].name : ""} ${format(series[index]?.values[chart.metric.name][state.place])}`;
    });
  }
}

function buildCharts() {
  $("charts").replaceChildren();
  charts = state.view.metrics.filter((metric) => metrics.has(metric.name)).map((metric) => {
    const canvas = element("canvas", { role: "img", "aria-label": `${metric.title} over time` });
    const cursor = element("div", { class: "cursor" });
    const plot = element("div", { class: "plot" }, canvas, cursor);
    const range = element("span");
    const values = state.view.series.map(() => element("span"));
    const legend = values.map((node, index) => element("div", {}, element("i", { class: `swatch s${index % 4}` }), node));
    const head = element("div", { class: "chart-head" },
      element("b", {}, `${metric.title} ${metric.higher ? "↑" : "↓"}`), ...legend, range);
    const toPlace = (event) => {
      const box = plot.getBoundingClientRect();
      seek(Math.round(((event.clientX - box.left) / box.width) * (state.info.numbers.length - 1)));
    };
    plot.addEventListener("pointerdown", (event) => { plot.setPointerCapture(event.pointerId); toPlace(event); });
    plot.addEventListener("pointermove", (event) => { if (plot.hasPointerCapture(event.pointerId)) toPlace(event); });
    $("charts").append(element("div", { class: "chart" }, head, plot));
    return { metric, canvas, cursor, values, range };
  });
  drawCharts();
}

function drawCharts() {
  if (!state.scores) return;
  const style = getComputedStyle(document.documentElement);
  for (const chart of charts) {
    const { canvas, metric } = chart;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const draw = canvas.getContext("2d");
    draw.scale(ratio, ratio);
    const all = state.scores.series.flatMap((series) => series.values[metric.name]).filter((value) => value !== null);
    let low = all.reduce((least, value) => Math.min(least, value), metric.higher ? Infinity : 0);
    let high = all.reduce((most, value) => Math.max(most, value), -Infinity);
    chart.range.textContent = all.length ? `range ${format(low)} to ${format(high)}` : "not scored yet";
    if (!(high > low)) { low -= 0.5; high = low + 1; }
    const last = Math.max(1, state.info.numbers.length - 1);
    const x = (place) => (place / last) * (width - 1);
    const y = (value) => height - 4 - ((value - low) / (high - low)) * (height - 8);
    draw.strokeStyle = style.getPropertyValue("--line");
    draw.beginPath();
    for (const level of [low, (low + high) / 2, high]) { draw.moveTo(0, y(level)); draw.lineTo(width, y(level)); }
    draw.stroke();
    state.scores.series.forEach((series, index) => {
      const values = series.values[metric.name];
      draw.strokeStyle = draw.fillStyle = style.getPropertyValue(`--c${index % 4}`);
      draw.lineWidth = 1.5;
      draw.lineJoin = "round";
      draw.beginPath();
      values.forEach((value, place) => {
        if (value === null) return;
        if (place && values[place - 1] !== null) draw.lineTo(x(place), y(value));
        else { draw.moveTo(x(place), y(value)); draw.lineTo(x(place) + 1, y(value)); draw.moveTo(x(place), y(value)); }
      });
      draw.stroke();
    });
  }
  updateValues();
}

async function poll() {
  clearTimeout(pollTimer);
  const video = state.video;
  try {
    const scores = await get(`/api/videos/${video}/scores`);
    if (video !== state.video) return;
    state.scores = scores;
    drawCharts();
    updateProgress();
    await updateWorst();
    const wait = Math.max(POLL_MS, scores.total / 5); // longer videos have longer answers
    if (!scores.done) pollTimer = setTimeout(poll, wait);
  } catch (error) {
    fail(error);
  }
}

function updateProgress() {
  const { ready, total, series } = state.scores;
  const parts = [];
  ready.forEach((count, index) => {
    const name = state.view.panels[index + 1];
    const scored = state.info.truth ? series.find((each) => each.name === name)?.scored ?? total : total;
    if (Math.min(count, scored) === total) return;
    parts.push(`${name}: ${count} of ${total} maps${scored < total ? `, ${scored} scored` : ""}`);
  });
  $("progress").textContent = state.scores.done ? "" : parts.join(" · ");
}

async function updateWorst() {
  if (!state.view.series.length) return;
  const found = await get(`/api/worst/${$("worst-metric").value}/${$("worst-series").value}`);
  $("worst").replaceChildren(...found.map((each) => element("li", {}, element("button", {
    type: "button",
    onclick: async () => { if (each.video !== state.video) await openVideo(each.video); seek(each.place); },
  }, element("b", {}, format(each.value)),
  ` ${state.view.videos.length > 1 ? `${state.view.videos[each.video].name}, ` : ""}frame ${each.frame}`))));
  if (!found.length) $("worst").append(element("li", { class: "empty" }, "none scored yet"));
}

// ---------------------------------------------------------------------------------------------- the page

function checkbox(label, checked, onchange) {
  const input = element("input", { type: "checkbox", checked, onchange });
  return element("label", { class: "check" }, input, label);
}

function buildPanels() {
  const { panels, series } = state.view;
  figures = panels.map((title, index) => {
    const image = element("img", { alt: title });
    const message = element("p", {}, "loading …");
    const values = element("span");
    const place = series.indexOf(title);
    const name = element("b", {}, ...(place < 0 ? [] : [element("i", { class: `swatch s${place % 4}` })]), title);
    const node = element("figure", {}, element("div", { class: "picture" }, image, message),
      element("figcaption", {}, name, values));
    $("panels").append(node);
    $("panel-options").append(checkbox(title, true, (event) => {
      if (event.target.checked) hidden.delete(index); else hidden.add(index);
      arrange();
      show(state.place);
    }));
    return { title, node, image, message, values };
  });
  $("panel-options").hidden = panels.length < 2;
  $("draw").hidden = panels.length < 2;
  $("stage").hidden = !panels.length;
}

function arrange() {
  figures.forEach((figure, index) => { figure.node.hidden = hidden.has(index); });
  const count = Math.max(1, visible().length);
  const width = $("panels").clientWidth;
  const upright = state.info?.size && state.info.size[0] > state.info.size[1];
  const most = Math.max(1, Math.floor(width / (width < 700 ? 160 : upright ? 220 : 290)));
  let columns = Math.min(count, most);
  if (columns > 2 && count > columns) columns = Math.ceil(count / Math.ceil(count / columns)); // rows of equal length
  if (count === 4 && columns === 3) columns = 2;
  $("panels").style.setProperty("--columns", columns);
  const alone = columns === 2 && count % 2 === 1; // the first panel fills a row
  figures.forEach((figure, index) => figure.node.classList.toggle("wide", alone && index === visible()[0]));
}

function buildVideos() {
  const { videos } = state.view;
  if (videos.length < 2) return;
  $("videos").hidden = false;
  let group = "";
  videos.forEach((video, index) => {
    if (video.group !== group) $("videos").append(element("h3", {}, (group = video.group)));
    $("videos").append(element("button", { type: "button", onclick: () => openVideo(index) },
      element("b", {}, video.name), element("span", {}, String(video.frames))));
  });
}

async function openVideo(index) {
  pause();
  generation++;
  state.video = index;
  state.place = 0;
  state.scores = null;
  $("message").hidden = true;
  document.querySelectorAll("#videos button").forEach((button, each) => {
    if (each === index) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
  });
  try {
    state.info = await get(`/api/videos/${index}`);
  } catch (error) {
    return fail(error);
  }
  if (state.info.missing) fail(new Error(state.info.missing));
  if (state.info.size) $("panels").style.setProperty("--ratio", `${state.info.size[1]} / ${state.info.size[0]}`);
  $("gaze-option").hidden = !state.info.truth;
  $("slider").max = state.info.numbers.length - 1;
  arrange();
  const done = show(0).then((current) => { if (current) prefetch(1); });
  await poll();
  return done;
}

const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (!state.info || event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT" || target.type === "radio") return;
  if (event.key === " " && target.tagName !== "BUTTON" && target.type !== "checkbox") play();
  else if (event.key in KEYS) seek(state.place + KEYS[event.key] * (event.shiftKey ? 10 : 1));
  else return;
  event.preventDefault();
});

$("play").addEventListener("click", play);
$("slider").addEventListener("input", (event) => seek(Number(event.target.value)));
$("gaze").addEventListener("change", (event) => { state.gaze = event.target.checked; show(state.place); });
$("draw").addEventListener("change", (event) => { state.draw = event.target.value; show(state.place); });
$("worst-metric").addEventListener("change", () => updateWorst().catch(fail));
$("worst-series").addEventListener("change", () => updateWorst().catch(fail));
window.addEventListener("resize", () => { if (state.info) { arrange(); drawCharts(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);

async function begin() {
  state.view = await get("/api/view");
  const { view } = state;
  $("title").textContent = view.title;
  $("kind").textContent = view.kind;
  document.title = `${view.title} – SalDistill`;
  $("notes").append(...view.notes.map((note) => element("li", {}, note)));
  metrics = new Set(view.metrics.map((metric) => metric.name).filter((name) => SHOWN_METRICS.includes(name)));
  if (!metrics.size) metrics = new Set(view.metrics.slice(0, 3).map((metric) => metric.name));
  $("score-section").hidden = !view.series.length;
  view.metrics.forEach((metric, index) => {
    $("worst-metric").append(element("option", { value: index, selected: metric.name === "nss" }, metric.title));
    $("metric-options").append(checkbox(metric.title, metrics.has(metric.name), (event) => {
      if (event.target.checked) metrics.add(metric.name); else metrics.delete(metric.name);
      buildCharts();
    }));
  });
  view.series.forEach((name, index) => $("worst-series").append(element("option", { value: index }, name)));
  $("worst-series").hidden = view.series.length < 2;
  buildPanels();
  buildVideos();
  state.info = { numbers: [1], fps: 25 };
  buildCharts();
  await openVideo(0);
}

begin().catch(fail);
