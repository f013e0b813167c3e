// The lab: a page around a trainer. It holds the settings, sends them to the worker, and shows what
// comes back.

import { $, arrowOf, clamp, dark, fitFrame, markPressed } from "./shared.js";
import { number, say, setTexts, showPixels, unbase64, unzip } from "./shared.js";
import { HELD_OUT, STANDARD } from "./lab-settings.js";
import { drawCurve, drawMap } from "./lab-draw.js";
import { measure } from "./lab-measures.js";

const data = JSON.parse($("data").textContent);
const ROUND = 6000; // steps after which training pauses by itself
const TRAINED = 600; // steps after which a question may go on with the network that is there

const state = {
  id: 0, // counts the runs
  settings: { ...STANDARD },
  running: false,
  round: 0, // steps that were last asked for
  rested: false, // did a whole ROUND end by itself?
  snapshot: null, // the last one, as worker.js posts it
  measures: null, // what is said about the snapshot
  history: [], // {step, train, held, beta}
  turn: [0.6, 0.4], // of the map of three dimensions, in radians
  question: null, // its button, whose data-* say what is changed, expected and answered
  until: null, // the step that answers it; null while the network is still being prepared
  asked: null, // the measures just before its change
  answer: "",
};
const dataset = () => data.datasets[state.settings.dataset];
if (!data.datasets.fashion) {
  document.querySelectorAll("[data-change*=fashion], [value=fashion]").forEach((e) => e.remove());
}
/** @type {any[]} inputs and selects */
const inputs = [...document.querySelectorAll("[data-setting]")];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let shown = 0; // when the screen was last drawn anew, in milliseconds

// ---------------------------------------------------------------------------------- the worker

const script = new Blob([data.worker], { type: "text/javascript" }); // so that it works from a file
const worker = new Worker(URL.createObjectURL(script));
worker.postMessage({ wasm: unbase64(data.wasm) });
for (const [name, { images }] of Object.entries(data.datasets)) {
  worker.postMessage({ name, packed: await unzip(unbase64(images)) });
}

/** Changes the state, and sends the trainer a message. @param {object} change @param {object} message */
function tell(change, message) {
  Object.assign(state, change);
  showSettings();
  worker.postMessage(message);
}

const pause = () => tell({ running: false }, { pause: true });
const run = (steps = ROUND) => tell({ running: true, round: steps }, { run: steps });

/** Changes settings while it runs. @param {Partial<import("./lab-settings.js").Settings>} change */
const set = (change) => tell({ settings: { ...state.settings, ...change } }, { settings: change });

/**
 * A new network, perhaps with other settings.
 * @param {Partial<import("./lab-settings.js").Settings>} [change]
 */
function restart(change) {
  const [settings, id] = [{ ...state.settings, ...change }, state.id + 1];
  const start = { id, settings, history: [], snapshot: null, running: false };
  tell(start, { start: settings, id, view: viewOf(settings.d) });
}

/** @param {number} d @returns {import("./lab-settings.js").View} */
function viewOf(d) {
  const [yaw, pitch] = d === 3 ? state.turn : [0, 0];
  const { sin, cos } = Math;
  const up = [-sin(pitch) * sin(yaw), cos(pitch), sin(pitch) * cos(yaw)];
  return { u: [cos(yaw), 0, sin(yaw)], v: d === 1 ? [0] : up };
}

worker.onmessage = ({ data: snapshot }) => {
  if (snapshot.id !== state.id) return; // of a run that has been left
  const { step, train, held, beta, running } = snapshot;
  const rested = state.round === ROUND && state.running && !running;
  Object.assign(state, { snapshot, running, rested });
  state.measures = { step, beta, ...held, ...measure(snapshot, dataset().labels) };
  if (train) state.history.push({ step, train, held, beta });
  if (state.history.length > 600) state.history = state.history.filter((_, i) => i % 2);
  follow();
  if (running && calm.matches && performance.now() - shown < 1000) return; // one picture a second
  shown = performance.now();
  requestAnimationFrame(show);
};

// ------------------------------------------------------------------------------- the questions

/**
 * A question starts a new network, or (data-live) goes on with one of the usual settings.
 * @param {HTMLElement} question its button
 */
function ask(question) {
  const { snapshot, settings } = state;
  const { seed, d, dataset, showLabels } = settings;
  const usual = { ...STANDARD, seed, d, dataset, showLabels };
  const ready = Object.keys(usual).every((name) => usual[name] === settings[name]);
  const step = ready && snapshot ? snapshot.step : 0;
  usual.showLabels = true;
  Object.assign(state, { question, settings: usual, until: null, answer: "" });
  if (!("live" in question.dataset) || step >= TRAINED) return change();
  if (!ready) restart();
  run(TRAINED - step);
}

/** What the question is about; the network is ready for it. */
function change() {
  const { live, change, steps } = state.question.dataset;
  (live === undefined ? restart : set)(JSON.parse(change));
  const until = (state.snapshot?.step ?? 0) + Number(steps);
  Object.assign(state, { until, asked: state.measures });
  run(Number(steps));
}

/** After each snapshot: can the question go on, or be answered? */
function follow() {
  const { question, answer, until, snapshot, measures, asked, history } = state;
  if (!question || answer) return;
  const broken = !Number.isFinite(snapshot.held.loss);
  if (until === null && snapshot.step >= TRAINED) change();
  else if (until && (snapshot.step >= until || broken)) {
    const words = { now: wordsOf(measures, history), then: wordsOf(asked ?? measures, history) };
    const fill = (_, past, name) => (past ? words.then : words.now)[name];
    state.answer = question.dataset.happened.replace(/{(before )?(\w+)}/g, fill);
    showSettings();
  }
}

const nats = (v) => (Number.isFinite(v) ? `${number(v, v < 10 ? 2 : 0)} nats` : "not a number");
const percent = (v) => `${Math.round(100 * v)}\u00a0%`;

/**
 * The numbers that an answer may name, and "before" those from before its change.
 * @returns {Record<string, string | number>}
 */
function wordsOf({ step, loss, recon, kl, same, inside, spread, pair }, history) {
  const late = history.filter((point) => point.step > 100).map(({ train }) => train.loss);
  const peak = history.reduce((a, b) => (b.held.kl > a.held.kl ? b : a));
  return {
    ...{ step, loss: nats(loss), recon: nats(recon), kl: nats(kl), spread: number(spread) },
    ...{ same: percent(same), inside: percent(inside) },
    ...{ lowest: nats(Math.min(...late)), highest: nats(Math.max(...late)) },
    ...{ peak: nats(peak.held.kl), peakStep: peak.step, peakBeta: number(peak.beta) },
    pair: pair.map((label) => dataset().names[label]).join(" and "),
  };
}

/**
 * The reader takes over: a question that is still open is dropped; with a new network, any.
 * @param {boolean} renew
 */
function takeOver(renew) {
  if (renew || !state.answer) state.question = null;
}

// --------------------------------------------------------------------------------- the screen

function show() {
  const { snapshot, measures, history, settings, until, answer, rested } = state;
  setTexts({ play: state.running ? "Pause" : "Play" });
  if (!snapshot) return;
  drawMap($("map"), state, dataset(), data.colors);
  for (const row of ["originals", "rebuilt", "samples"]) showPixels($(row), snapshot[row], 6);

  const { step, beta, rate, held, reach, speed, running, kernel } = snapshot;
  const recon = settings.mean ? held.recon / 784 : held.recon;
  let rest = rested ? "and a pause: Play goes on" : "";
  if (!Number.isFinite(held.loss)) rest = "and the loss is no number any more: start again";
  const [same, spread] = [percent(measures.same), number(measures.spread)];
  setTexts({
    ...{ same, spread, beta: number(beta), kl: number(held.kl) },
    steps: step.toLocaleString("en"),
    speed: running ? `${Math.round(speed)} steps/s in ${kernel}` : rest,
    unit: settings.mean ? "as it is trained: a mean over pixels, plus the KL" : "in nats per image",
    loss: number(held.loss, settings.mean ? 3 : 1),
    recon: number(recon, settings.mean ? 3 : 1),
    reach: `The map reaches from −${reach} to ${reach}.`,
    rate: rate === settings.rate ? "" : `, now ${rate.toPrecision(2)}`,
    progress: answer ? "" : `Step ${step} of ${until ?? `${TRAINED}, before the change`}.`,
  });
  $("recon-bar").style.flexGrow = 1000 * recon || 0; // shares: a sum below 1 would not fill the bar
  $("kl-bar").style.flexGrow = 1000 * beta * held.kl || 0;
  for (const name of ["loss", "recon", "kl"]) {
    const curve = $(`${name}-curve`);
    drawCurve(curve, history, name);
    curve.ariaLabel = `Curve of ${curve.title} over ${step} steps, now ${nats(held[name])}`;
  }
  $("map").ariaLabel =
    `Map of ${HELD_OUT} codes after ${step} steps, from −${reach} to ${reach} each way. Standard ` +
    `deviation ${spread}; the nearest other code is of the same class for ${same}`;
  if (!running) say($("map").ariaLabel);
}

/** Everything that follows from settings and question. */
function showSettings() {
  const { settings, question, answer } = state;
  for (const input of inputs) {
    const value = settings[input.dataset.setting];
    input[input.type === "checkbox" ? "checked" : "value"] = value;
  }
  document.body.dataset.d = String(settings.d); // for what the style hides
  const dot = (label) => (settings.showLabels ? data.colors[label] : "var(--muted)");
  const legend = dataset().names.map((name, i) => `<span style="--dot: ${dot(i)}">${name}</span>`);
  $("legend").innerHTML = legend.join("");
  markPressed($("questions"), question);
  $("answer").hidden = !question;
  setTexts({
    ...{ expect: question?.dataset.expect, happened: answer, size: settings.d },
    "beta-set": number(settings.beta, 1),
  });
  requestAnimationFrame(show);
}

// -------------------------------------------------------------------------------------- input

/** @param {string} id of a button @param {boolean} renew @param {() => void} action */
function onPress(id, renew, action) {
  $(id).onclick = () => {
    takeOver(renew);
    action();
  };
}
onPress("play", false, () => (state.running ? pause() : run()));
onPress("one", false, () => run(1));
onPress("again", true, () => restart());
onPress("standard", true, () => restart(STANDARD));
for (const button of $("questions").children) {
  button.onclick = () => {
    ask(button);
    $("answer").scrollIntoView({ block: "nearest" });
  };
}
for (const input of inputs) {
  input.oninput = () => {
    const { setting, live } = input.dataset;
    const value = input.type === "checkbox" ? input.checked : input.value;
    if (value === "") return; // a seed that is still being typed
    if (setting !== "showLabels") takeOver(live === undefined);
    const change = { [setting]: typeof STANDARD[setting] === "number" ? Number(value) : value };
    (live === undefined ? restart : set)(change);
  };
}
$("pace").onchange = () => tell({}, { pace: Number($("pace").value) });

function turn(yaw, pitch) {
  state.turn = [state.turn[0] + yaw, clamp(state.turn[1] + pitch, -1.5, 1.5)];
  tell({}, { view: viewOf(3) });
}
$("map").onkeydown = (event) => {
  const arrow = arrowOf(event);
  if (state.settings.d !== 3 || !arrow) return;
  event.preventDefault();
  turn(0.1 * arrow[0], -0.1 * arrow[1]);
};
$("map").onpointermove = ({ buttons, movementX, movementY }) => {
  if (state.settings.d === 3 && buttons & 1) turn(movementX / 100, movementY / 100);
};

// Nothing trains where nobody looks.
document.onvisibilitychange = () => document.hidden && state.running && pause();
dark().onchange = show;
window.onresize = () => requestAnimationFrame(show);

restart();
fitFrame();
Object.assign(window, { lab: { state, data } }); // for the curious, and for tests
