// The page: connects the form, the stage and the panels to a LongtakeStream.

import { clock, endText, problemTitle } from "./format.js";
import { Panel } from "./panel.js";
import { LongtakeStream } from "./stream.js";
import { Takes } from "./takes.js";

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const FIRST = "start";
const GLOW_MS = 1000;
const EXAMPLES_SHOWN = 6;
const MODELS_AGAIN_MS = 2000;

const panel = new Panel({
  fps: $("stat-fps"),
  chunk: $("stat-chunk"),
  buffer: $("stat-buffer"),
  stalls: $("stat-stalls"),
  spark: $("spark"),
  sparkMax: $("spark-max"),
});
const takes = new Takes($("takes"), $("takes-empty"));

let stream = null;
let models = [];
let modelsAsk = null;
let examples = [];
let apiKey = sessionStorage.getItem("longtake-key");
let lastSeed = null;

// What the server offers -------------------------------------------------------------------------

/** Ask which models there are, again and again until one is served. */
async function loadModels() {
  clearTimeout(modelsAsk);
  const headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  let response;
  try {
    response = await fetch(new URL("v1/models", document.baseURI), { headers });
  } catch {
    $("server").textContent = "The server does not answer";
    modelsAsk = setTimeout(loadModels, MODELS_AGAIN_MS);
    return;
  }
  if (response.status === 401) {
    askForKey();
    return;
  }
  if (!response.ok) {
    $("server").textContent = `The server answered ${response.status}`;
    modelsAsk = setTimeout(loadModels, MODELS_AGAIN_MS);
    return;
  }
  const listed = (await response.json()).data ?? [];
  // The server also lists models that it could serve after a restart.
  models = listed.filter((model) => model.serving !== false);
  const select = $("model");
  select.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  $("model-field").hidden = models.length < 2;
  showModel();
  if (!models.length) modelsAsk = setTimeout(loadModels, MODELS_AGAIN_MS);
}

function chosenModel() {
  return models.find((model) => model.id === $("model").value) ?? models[0];
}

function showModel() {
  const model = chosenModel();
  $("server").textContent = model ? `Model ${model.id}` : "No model is being served yet";
  const [width, height] = String(model?.sizes?.[0] ?? "").split("x").map(Number);
  if (width && height && !stream) setAspect(width / height);
  if (model?.max_steps) $("steps").max = model.max_steps;
  const prompts = (model?.example_prompts ?? []).slice(0, EXAMPLES_SHOWN);
  $("examples").hidden = prompts.length === 0;
  $("example-list").replaceChildren(
    ...prompts.map((text) => {
      const item = document.createElement("li");
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = "chip";
      chip.textContent = chip.title = text;
      chip.addEventListener("click", () => useExample(text));
      item.append(chip);
      return item;
    }),
  );
  examples = prompts;
  showPlaceholder();
}

/** The box proposes: an example to begin with, another one to go on with. */
function showPlaceholder() {
  const [first, ...others] = examples;
  if (!first) return;
  $("prompt").placeholder = stream?.active ? (others[0] ?? first) : first;
}

function setAspect(ratio) {
  document.documentElement.style.setProperty("--aspect", ratio);
}

function useExample(text) {
  $("prompt").value = text;
  $("prompt").focus();
}

// Saying things ----------------------------------------------------------------------------------

function notice(title, text, { mild = false } = {}) {
  $("notice-title").textContent = title;
  $("notice-text").textContent = text ?? "";
  $("notice").classList.toggle("mild", mild);
  $("key-form").hidden = true;
  $("notice").hidden = false;
}

function askForKey() {
  notice(problemTitle("unauthorized"), "It is kept for this tab only.", { mild: true });
  $("key-form").hidden = false;
}

function pill(kind, text) {
  $("pill").hidden = !text;
  $("pill").dataset.kind = kind;
  $("pill-text").textContent = text;
}

function placeholder(line, hint) {
  $("placeholder-line").textContent = line;
  $("placeholder-hint").textContent = hint;
}

// A stream's life --------------------------------------------------------------------------------

function integer(id) {
  const { value } = $(id);
  return value === "" ? null : Number(value);
}

function start(prompt) {
  $("notice").hidden = true;
  takes.clear();
  panel.reset();
  $("stage").classList.remove("seen");
  $("stage").querySelector(".picture")?.remove();
  $("clock").textContent = "0:00";
  $("facts").textContent = "";
  const current = new LongtakeStream({
    stage: $("stage"),
    apiKey,
    format: query.get("format"),
    codec: query.get("codec"),
  });
  stream = current;
  const listen = (type, handler) => {
    current.addEventListener(type, ({ detail }) => {
      if (stream === current) handler(detail);
    });
  };
  listen("state", onState);
  listen("started", onStarted);
  listen("stats", onStats);
  listen("receipt", (receipt) => takes.update(receipt));
  listen("problem", onProblem);
  listen("chunk", onChunk);
  listen("blocked", () => ($("click-to-play").hidden = false));
  takes.add(FIRST, prompt, { status: "first" });
  current.start({
    prompt,
    model: models.length > 1 ? $("model").value : undefined,
    seed: integer("seed"),
    steps: integer("steps"),
  });
  $("prompt").value = "";
}

function onState({ state, paused, position, reason, code, message }) {
  const stage = $("stage");
  const { active } = stream;
  stage.dataset.state = state;
  document.body.classList.toggle("live", active);
  document.body.classList.toggle("paused", paused && active);
  $("pause-text").textContent = paused && active ? "Play" : "Pause";
  $("pause").disabled = !["playing", "buffering"].includes(state);
  $("stop").disabled = !active;
  $("fullscreen").disabled = !active;
  $("go").textContent = active ? "Change" : "Start";
  $("prompt-label").textContent = active ? "What should happen next?" : "What should we see?";
  $("go").disabled = active && !["playing", "buffering"].includes(state);
  $("glow").classList.toggle("on", state === "playing");
  showPlaceholder();
  switch (state) {
    case "connecting":
      pill("wait", "");
      placeholder("Setting the scene…", "The first picture comes in about a second.");
      break;
    case "queued":
      pill("wait", "Waiting");
      placeholder("Waiting for room…", `You are number ${position} in line. It starts by itself.`);
      break;
    case "buffering":
      placeholder("Setting the scene…", "The first chunk is being made.");
      break;
    case "playing":
      stage.classList.add("seen");
      if (paused) pill("paused", "Paused");
      else pill("live", "Live");
      break;
    case "reconnecting":
      pill("wait", "Reconnecting…");
      notice("The connection dropped.", "The stream is held while we try again.", { mild: true });
      break;
    case "done":
      pill("done", "");
      placeholder(endText(reason), "Describe another scene, or the same one again.");
      break;
    case "failed":
      pill("failed", "");
      placeholder("Cut.", problemTitle(code));
      notice(problemTitle(code), message);
      if (code === "unauthorized") askForKey();
      break;
  }
  if (active) return;
  $("click-to-play").hidden = true;
  takes.finish();
}

function onStarted({ config, resumed }) {
  panel.begin(config);
  setAspect(config.width / config.height);
  lastSeed = config.seed;
  $("facts").textContent = `${config.width}×${config.height}, ${config.fps} fps, seed ${config.seed}`;
  $("reuse-seed").textContent = `Use seed ${config.seed} again`;
  $("reuse-seed").hidden = integer("seed") === config.seed;
  if (resumed) {
    $("notice").hidden = true;
  } else {
    takes.update({ eventId: FIRST, status: "applied", frame: 0, pts: 0 });
  }
}

function onStats(stats) {
  const now = performance.now();
  panel.update(stats, now);
  if (stats.frame < 0) return;
  $("clock").textContent = clock(stats.frame / stream.config.fps);
  if (takes.statusOf(FIRST) === "applied") {
    takes.update({ eventId: FIRST, status: "shown", frame: 0, pts: 0 });
  }
  glow(now);
}

let passing = false;

function onProblem({ code, message, retryable, fallback }) {
  if (fallback) notice(problemTitle("player"), "Trying another way of playing it.", { mild: true });
  else notice(problemTitle(code), message, { mild: retryable });
  passing = Boolean(retryable || fallback);
}

/** Pictures come again, so what was wrong is over. */
function onChunk() {
  if (passing) $("notice").hidden = true;
  passing = false;
}

const sampler = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
let glowAt = -Infinity;

/** Light the wall behind the picture with the mean colours of its upper and lower half. */
function glow(now) {
  const picture = $("stage").querySelector(".picture");
  if (now - glowAt < GLOW_MS || !picture) return;
  glowAt = now;
  sampler.drawImage(picture, 0, 0, 4, 4);
  const { data } = sampler.getImageData(0, 0, 4, 4);
  const mean = (from, channel) => {
    let sum = 0;
    for (let i = from; i < from + 8; i++) sum += data[4 * i + channel];
    return Math.round(sum / 8);
  };
  for (const [name, from] of [["--glow-top", 0], ["--glow-bottom", 8]]) {
    $("glow").style.setProperty(name, `rgb(${mean(from, 0)} ${mean(from, 1)} ${mean(from, 2)})`);
  }
}

// What the viewer does ---------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("prompt").value.trim();
  if (stream?.active) {
    if (!text) return;
    takes.add(stream.prompt(text), text);
    $("prompt").value = "";
  } else {
    start(text || $("prompt").placeholder);
  }
});

$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!$("go").disabled) $("form").requestSubmit();
});

const togglePause = () => (stream.paused ? stream.play() : stream.pause());
$("pause").addEventListener("click", togglePause);
$("stop").addEventListener("click", () => stream.stop());
$("fullscreen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen();
});
$("click-to-play").addEventListener("click", () => {
  $("click-to-play").hidden = true;
  stream.player.element.play();
});
$("model").addEventListener("change", showModel);
$("reuse-seed").addEventListener("click", () => {
  $("seed").value = lastSeed;
  $("reuse-seed").hidden = true;
});
$("notice-close").addEventListener("click", () => ($("notice").hidden = true));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key").value;
  sessionStorage.setItem("longtake-key", apiKey);
  $("notice").hidden = true;
  loadModels();
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, button, a");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && !$("pause").disabled) {
    event.preventDefault();
    togglePause();
  } else if (event.key === "/") {
    event.preventDefault();
    $("prompt").focus();
  }
});

// A page that goes away for good frees its place at once instead of after the server's grace.
addEventListener("pagehide", () => stream?.stop());

// The panel goes on telling while nothing is presented.
setInterval(() => {
  if (stream?.active && stream.config) panel.update(stream.stats, performance.now());
}, 500);

if (query.get("prompt")) $("prompt").value = query.get("prompt");
loadModels();
