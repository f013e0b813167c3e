// The explorer: what is shown, and what happens when something is touched. An image goes through
// one of two models; a point of that model's space is decoded; a walk leads from A to B.
// Places in the address, #z=… and others: see readAddress in places.js.

import { $, color, fitCanvas, homeLink, inSlices, number, say } from "./shared.js";
import { showPixels, tellHeight, unbase64, unzip } from "./shared.js";
import { crossEntropy, kl, normal, reader, unpackModel } from "./network.js";
import { between, nearest, readAddress, writeAddress } from "./places.js";
import { drawCode, makeMap } from "./explorer-map.js";
import { makePad } from "./explorer-pad.js";

const FRAMES = 11; // of the film; the draws are ten and the mean, eleven too
const ALIVE = 0.01; // nats of KL, less than which a dimension is called dead
const REACH = 3; // of a slider, in standard deviations of the prior

// ------------------------------------------------------------------------------- what is given

const data = JSON.parse($("data").textContent);
const labels = Uint8Array.from(data.labels, Number);
const read = reader(await unzip(unbase64(data.arrays)));
const models = data.models.map((header) => {
  const model = unpackModel(header, read);
  const whole = read(Int16Array, labels.length * model.d);
  return { ...model, klMean: header.kl, codes: Float32Array.from(whole, (q) => q * data.codeUnit) };
});
const images = read(Uint8Array, labels.length * 784);
const imageAt = (i) => Float32Array.from(images.subarray(784 * i, 784 * (i + 1)), (v) => v / 255);
const codeOf = (model, i) => [...model.codes.subarray(i * model.d, (i + 1) * model.d)];
const pair = (v) => `(${v.map((x) => number(x)).join(", ")})`;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const first = (label) => Math.max(0, labels.indexOf(label)); // image of a class

// -------------------------------------------------------------------------------------- the state

const state = {
  model: models[0],
  x: null, // the image, its number among the test images, and its code { mu, sigma }
  index: undefined,
  code: null,
  eps: [], // ten draws of the noise, for each model
  draws: [], // their codes, after the mean itself
  chosen: 1, // which of them the strip shows; 0 is the mean
  kept: null, // the point that was clicked or moved to
  point: null, // the one that is shown: kept, or the one under the mouse
  a: null,
  b: null,
  t: 0, // place between them
  arc: false,
  way: [], // codes along it
  playing: false,
  alone: null, // the one class that the legend shows
};
/** Each model keeps its own point, A and B while the other is looked at. */
const places = new Map(
  models.map((model) => {
    const [a, b] = [codeOf(model, first(1)), codeOf(model, first(0))];
    const kept = model.d === 2 ? a : codeOf(model, data.first);
    return [model, { a, b, kept, defaults: [a, b] }];
  }),
);

// ----------------------------------------------------------------------- one image goes through

function setImage(x, name) {
  state.x = x;
  $("image-name").textContent = name;
  roll(false);
}

/** Ten draws of the noise for the image; `anew` where the die asks for others. */
function roll(anew) {
  const { model, x } = state;
  if (anew || state.eps[0]?.length !== model.d) {
    state.eps = Array.from({ length: FRAMES - 1 }, () => Array.from({ length: model.d }, normal));
  }
  state.code = x && model.encode(x);
  const { mu, sigma } = state.code ?? {};
  state.draws = x ? [mu, ...state.eps.map((e) => mu.map((m, k) => m + sigma[k] * e[k]))] : [];
  state.pictures = state.draws.map(model.decode);
  [...$("draws").querySelectorAll("canvas")].forEach((canvas, i) => {
    showPixels(canvas, state.pictures[i] ?? new Float32Array(784));
  });
  showStrip();
}

function showStrip() {
  const { x, code, chosen, model, pictures } = state;
  const [short, eps] = [model.d === 2, chosen ? state.eps[chosen - 1] : Array(model.d).fill(0)];
  showPixels($("picture"), pictures[chosen] ?? new Float32Array(784));
  const costs = pictures.map((picture) => crossEntropy(x, picture));
  const klNow = code ? kl(code).reduce((a, b) => a + b) : 0;
  for (const [bar, value] of [
    ["recon", costs[chosen]],
    ["kl", klNow],
  ]) {
    $(bar).textContent = code ? number(value, 1) : "–";
    $(`${bar}-bar`).style.width = `${code ? Math.min(100, (100 * value) / data.scale) : 0}%`;
  }
  [...document.querySelectorAll(".tick")].forEach((tick, i) => {
    tick.hidden = !code;
    tick.style.left = `${Math.min(99.5, (100 * costs[i + 1]) / data.scale)}%`;
  });
  const squares = number(Math.hypot(...eps));
  $("eps").textContent = !code ? "" : short ? `ε = ${pair(eps)}` : `length of ε: ${squares}`;
  $("z-drawn").textContent = !code
    ? ""
    : short
      ? pair(state.draws[chosen])
      : `${model.d} numbers, the dots`;
  $("code").innerHTML = !code
    ? ""
    : short
      ? `<b>μ</b> = ${pair(code.mu)}<br><b>σ</b> = ${pair(code.sigma)}`
      : `μ ± 2σ of ${model.d} numbers, those with most KL on top`;
  $("picture").setAttribute("aria-label", code ? "The picture decoded from the drawn z" : "Empty");
  drawLens();
  map.drawTop();
  if (code) {
    const what = chosen ? `draw ${chosen} of ten` : "the mean, without noise";
    say(
      `${$("image-name").textContent}: ${$("code").textContent}. ${what}: reconstruction ` +
        `${number(costs[chosen], 1)} nats, KL ${number(klNow, 1)} nats.`,
    );
  }
  tellAddress();
}

/** The code of the image from near: in the plane its ellipses, else an interval for each dimension. */
function drawLens() {
  const ctx = fitCanvas($("lens"));
  const side = $("lens").clientWidth;
  const { model, code, draws, chosen } = state;
  if (!code) return;
  if (model.d === 2) {
    const unit = side / (6.5 * Math.max(...code.sigma));
    const place = ([x, y]) => [
      side / 2 + unit * (x - code.mu[0]),
      side / 2 - unit * (y - code.mu[1]),
    ];
    for (let i = 0; i < labels.length; i++) {
      const [u, v] = place(model.codes.subarray(2 * i, 2 * i + 2));
      ctx.fillStyle = data.colors[labels[i]];
      if (Math.max(Math.abs(u), Math.abs(v)) < 2 * side) ctx.fillRect(u - 2, v - 2, 4, 4);
    }
    drawCode(ctx, state, place, unit);
    return;
  }
  const step = side / model.d;
  const at = (v) => side / 2 + (v * side) / 8; // −4 to 4 standard deviations of the prior
  ctx.fillStyle = color("--line");
  ctx.fillRect(at(-2), 0, at(2) - at(-2), side); // where the prior has 95 %
  order(model).forEach((k, row) => {
    ctx.fillStyle = color("--accent");
    ctx.fillRect(
      at(code.mu[k] - 2 * code.sigma[k]),
      step * row + 1,
      4 * code.sigma[k] * (side / 8),
      step - 2,
    );
    ctx.fillStyle = color("--ink");
    ctx.fillRect(at(draws[chosen][k]) - 2, step * row + step / 2 - 2, 4, 4);
  });
}

/** Dimensions by their mean KL, most first. */
const order = ({ klMean }) => klMean.map((_, k) => k).sort((i, j) => klMean[j] - klMean[i]);

for (let i = 0; i < FRAMES; i++) {
  const label = document.createElement("label");
  label.innerHTML = `<input type="radio" name="draw" value="${i}"${i === 1 ? " checked" : ""}>
    <canvas class="pixels" width="28" height="28"></canvas>${i ? i : "μ"}`;
  label.firstChild.setAttribute("aria-label", i ? `draw ${i}` : "the mean μ, without noise");
  label.firstChild.addEventListener("change", () => {
    state.chosen = i;
    showStrip();
  });
  $("draws").append(label);
  if (i) $("recon-bar").parentElement.insertAdjacentHTML("beforeend", '<i class="tick"></i>');
}
$("die").addEventListener("click", () => {
  $("die").textContent = "⚀⚁⚂⚃⚄⚅"[Math.floor(6 * Math.random())];
  roll(true);
});

const pad = makePad((pixels, name) => {
  state.index = undefined;
  setImage(pixels, name);
});
function showTestImage(i) {
  pad.show(imageAt(i), `test image ${i}: ${data.names[labels[i]]}`);
  state.index = i;
  tellAddress();
}
$("example").addEventListener("click", () =>
  showTestImage(((state.index ?? -1) + 1) % labels.length),
);

// ----------------------------------------------------------------------- a point of the space

/** Shows the picture of z, for as long as the mouse is there or, `kept`, until it is moved. */
function setPoint(z, kept) {
  if (kept) state.kept = z;
  state.point = z ?? state.kept;
  askPoint();
}
const askPoint = inSlices(() => {
  const { model, point } = state;
  state.near = nearest(model.codes, point);
  const name = data.names[labels[state.near]];
  showPixels($("decoded"), model.decode(point));
  showPixels($("near"), imageAt(state.near));
  $("near-name").innerHTML =
    `<i class="dot" style="background: ${data.colors[labels[state.near]]}"></i>${name}`;
  const text =
    model.d === 2
      ? `z = ${pair(point)}`
      : `${model.d} numbers, length ${number(Math.hypot(...point))}`;
  $("z").textContent = text;
  $("decoded").setAttribute("aria-label", `Picture decoded from ${text}`);
  $("near").setAttribute("aria-label", `Test image ${state.near}, class ${name}`);
  if (model.d === 2) map.drawTop();
  else showSliders();
  say(`${text}. Nearest test image: ${name}.`);
  tellAddress();
  return false; // at most once a frame
});
function movePoint(what, z, kept) {
  if (kept) pause();
  if (what === "point") return setPoint(z, kept);
  state[what] = z;
  walkTo(what === "a" ? 0 : 1);
  askFilm();
}
$("through").addEventListener("click", () => showTestImage(state.near));
$("from-image").addEventListener(
  "click",
  () => state.code && movePoint("point", state.code.mu, true),
);

const map = makeMap(models[0], { ...data, labels }, state, movePoint);

data.names.forEach((name, label) => {
  if (!data.tags[label]) return; // no test image of this class
  const button = document.createElement("button");
  button.type = "button";
  button.innerHTML = `<i class="dot" style="background: ${data.colors[label]}"></i>${name}`;
  button.addEventListener("click", () => {
    state.alone = state.alone === label ? null : label;
    markPressed($("legend"), state.alone === label ? button : null);
    map.redraw();
  });
  $("legend").append(button);
});
function markPressed(group, pressed) {
  for (const button of group.children) button.setAttribute("aria-pressed", button === pressed);
}
markPressed($("legend"), null);

// Sliders, one a dimension: the pictures at both ends are those of z with this dimension there.
const deep = models[1];
const rows = order(deep).map((k) => {
  const row = document.createElement("div");
  const dead = deep.klMean[k] < ALIVE;
  row.className = dead ? "slider dead" : "slider";
  row.innerHTML = `<canvas class="pixels" width="28" height="28"></canvas>
    <div><label for="dim-${k}">dimension ${k + 1}</label>
    <input type="range" id="dim-${k}" min="-${REACH}" max="${REACH}" step="0.05"></div>
    <canvas class="pixels" width="28" height="28"></canvas>`;
  const [label, slider, ends] = [
    row.querySelector("label"),
    row.querySelector("input"),
    row.querySelectorAll("canvas"),
  ];
  slider.addEventListener("input", () => {
    movePoint(
      "point",
      state.kept.map((v, j) => (j === k ? Number(slider.value) : v)),
      true,
    );
  });
  $("sliders").append(row);
  const about = dead ? "dead" : `KL ${number(deep.klMean[k])}`;
  return { k, label, slider, ends, name: `z<sub>${k + 1}</sub>`, about };
});
let endsToDraw = [];
const askEnds = inSlices(() => {
  const next = endsToDraw.pop();
  if (next)
    showPixels(
      next.canvas,
      deep.decode(state.point.map((v, j) => (j === next.k ? next.value : v))),
    );
  return endsToDraw.length > 0;
});
function showSliders() {
  for (const { k, label, slider, name, about } of rows) {
    slider.value = state.point[k];
    label.innerHTML = `${name} = ${number(state.point[k])}, ${about}`;
    slider.setAttribute("aria-valuetext", `${number(state.point[k])}; ${about}`);
  }
  endsToDraw = rows
    .flatMap(({ k, ends }) => [
      { canvas: ends[1], k, value: REACH },
      { canvas: ends[0], k, value: -REACH },
    ])
    .reverse();
  askEnds();
}

// --------------------------------------------------------------------------------- from A to B

for (let i = 0; i < FRAMES; i++) {
  $("film").insertAdjacentHTML(
    "beforeend",
    '<canvas class="pixels" width="28" height="28"></canvas>',
  );
  $("film").lastChild.addEventListener("click", () => {
    pause();
    walkTo(i / (FRAMES - 1));
  });
}
let frame = FRAMES;
const drawFrames = inSlices(() => {
  if (frame >= FRAMES) return false;
  showPixels($("film").children[frame], state.model.decode(state.way[(20 * frame) / (FRAMES - 1)]));
  return ++frame < FRAMES;
});
function askFilm() {
  state.way = Array.from({ length: 21 }, (_, i) => between(state.a, state.b, i / 20, state.arc));
  [frame, state.film] = [0, true];
  const name = (z) => data.names[labels[nearest(state.model.codes, z)]];
  const text = `${FRAMES} pictures on the ${state.arc ? "arc" : "line"} from A, near ${name(state.a)}, to B, near ${name(state.b)}`;
  $("film").setAttribute("aria-label", text);
  drawFrames();
}

function walkTo(t) {
  state.t = t;
  $("step").value = t;
  $("step").setAttribute("aria-valuetext", `${Math.round(100 * t)} % of the way from A to B`);
  [...$("film").children].forEach((canvas, i) => {
    canvas.classList.toggle("now", Math.round(t * (FRAMES - 1)) === i);
  });
  setPoint(between(state.a, state.b, t, state.arc), true);
}
function pause() {
  state.playing = false;
  $("play").textContent = calm.matches ? "Step" : "Play";
}
let direction = 1;
function play(last) {
  // four seconds there, four seconds back
  requestAnimationFrame((now) => {
    if (!state.playing) return;
    const t = Math.min(1, Math.max(0, state.t + (direction * Math.min(now - last, 100)) / 4000));
    if (t === 0 || t === 1) direction = t ? -1 : 1;
    walkTo(t);
    play(now);
  });
}
$("play").addEventListener("click", () => {
  if (calm.matches) return walkTo(state.t > 0.999 ? 0 : Math.min(1, state.t + 0.1)); // no motion unasked
  if (state.playing) return pause();
  state.playing = true;
  $("play").textContent = "Pause";
  play(performance.now());
});
$("step").addEventListener("input", () => {
  pause();
  walkTo(Number($("step").value));
});
for (const [id, what] of [
  ["set-a", "a"],
  ["set-b", "b"],
])
  $(id).addEventListener("click", () => movePoint(what, state.kept, true));
for (const way of ["line", "arc"]) {
  $(way).addEventListener("click", () => {
    setWay(way === "arc");
    walkTo(state.t);
  });
}
function setWay(arc) {
  state.arc = arc;
  $("line").setAttribute("aria-pressed", !arc);
  $("arc").setAttribute("aria-pressed", arc);
  askFilm();
}
calm.addEventListener("change", pause);

// ------------------------------------------------------------- which model, the address, the start

function setModel(model) {
  pause();
  const from = places.get(state.model);
  if (state.kept) Object.assign(from, { a: state.a, b: state.b, kept: state.kept });
  Object.assign(state, { model, ...places.get(model) });
  state.point = state.kept;
  markPressed($("models"), $("models").children[models.indexOf(model)]);
  const flat = model.d === 2;
  [$("map").hidden, $("dims").hidden] = [!flat, flat];
  $("space-title").textContent = flat ? "The plane of codes" : `The space of ${model.d} numbers`;
  $("space-help").textContent = flat
    ? `A dot is the code μ of one of ${labels.length.toLocaleString("en")} test images. Move over the plane to see what the ` +
      "decoder makes of each place; click to keep it. Drag the plane or A and B; zoom with the buttons, two fingers, " +
      "or, once clicked, the wheel. Keys: arrows, + and −, 0 for all."
    : "A slider moves one number of z; the pictures at its ends are what −3 and 3 would make of it. Sorted by KL, " +
      "the nats that the encoder spends on each, on average over the test images; dead ones come last and change nothing.";
  $("walk-help").textContent = flat
    ? "A and B can be dragged on the plane."
    : "“A here” puts A where the sliders are.";
  state.draws = [];
  roll(false);
  setPoint(state.kept, true);
  askFilm();
}
models.forEach((model) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = model.d === 2 ? "A plane: 2 numbers" : `Sharper: ${model.d} numbers`;
  button.addEventListener("click", () => setModel(model));
  $("models").append(button);
});

let written = ""; // what this page put into the address itself
let addressWaiting = 0;
function tellAddress() {
  if (window !== parent) return; // in a frame the address is not the reader's
  clearTimeout(addressWaiting);
  addressWaiting = setTimeout(() => {
    const { model, index, kept, a, b } = state;
    const [startA, startB] = places.get(model).defaults;
    const ends = a === startA && b === startB ? {} : { a, b };
    const way = state.arc ? "arc" : undefined;
    written = writeAddress({ model: model.d, image: index, z: kept, ...ends, way });
    history.replaceState(null, "", written);
  }, 400);
}
function followAddress() {
  const asked = readAddress(location.hash, models, state.model);
  if (asked.model !== state.model || !state.kept) setModel(asked.model);
  Object.assign(state, { a: asked.a ?? state.a, b: asked.b ?? state.b });
  setWay(asked.arc ?? state.arc);
  if (asked.image !== undefined || !state.x) showTestImage(asked.image ?? data.first);
  setPoint(asked.z ?? (asked.a ? state.a : state.kept), true);
}
addEventListener("hashchange", () => location.hash !== written && followAddress());

function layout() {
  pad.draw();
  if (state.code) drawLens();
}
new ResizeObserver(layout).observe($("lens"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layout);
$("map-text").textContent =
  "Where the classes lie: " +
  Object.entries(data.tags)
    .map(([label, z]) => `${data.names[label]} around ${pair(z)}`)
    .join("; ");
homeLink();
tellHeight($("main"));
setModel(models[0]);
followAddress();
window.explorer = { models, state, crossEntropy, kl }; // for the console, and for tests
