// The explorer: what is shown, and what happens when something is touched. An image goes through
// one of two models; a point of that model's space is decoded; a walk leads from A to B.
// Places in the address, #z=… and others: see readAddress in places.js.

import { $, clamp, color, dark, fitCanvas, fitFrame, inSlices } from "./shared.js";
import { markPressed, number, say, setTexts, showPixels, unbase64, unzip } from "./shared.js";
import { crossEntropy, kl, normal, reader, unpackModel } from "./network.js";
import { between, codeOf, nearest, readAddress, writeAddress } from "./places.js";
import { drawCode, makeMap } from "./explorer-map.js";
import { makePad } from "./explorer-pad.js";

// ------------------------------------------------------------------------------- what is given

const data = JSON.parse($("data").textContent);
const labels = Uint16Array.from(data.labels);
const read = reader(await unzip(unbase64(data.arrays)));
const models = data.models.map((header) => {
  const network = unpackModel(header, read);
  const whole = read(Int16Array, labels.length * network.d);
  const codes = Float32Array.from(whole, (q) => q * data.codeUnit);
  const model = { ...network, order: header.order, codes };
  const first = (label) => codeOf(model, Math.max(0, labels.indexOf(label))); // of a class
  const ends = { a: first(1), b: first(0) };
  const kept = model.d === 2 ? ends.a : null; // sliders begin where the image is
  return { ...model, ends, places: { ...ends, kept } }; // places: while the other one is looked at
});
const images = read(Uint8Array, labels.length * 784);
const imageAt = (i) => Float32Array.from(images.subarray(784 * i, 784 * (i + 1)), (v) => v / 255);
const nameOf = (i) => data.names[labels[i]];
function vector(v) {
  if (v.length === 2) return `(${v.map((x) => number(x)).join(", ")})`;
  return `${v.length} numbers, length\u00a0${number(Math.hypot(...v))}`;
}
const BLACK = new Float32Array(784);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const film = [...$("film").children];
/** @type {NodeListOf<HTMLElement>} */
const ticks = document.querySelectorAll(".tick");
const radios = [...$("draws").querySelectorAll("input")];

const state = {
  model: null,
  x: null, // the image, its number among the test images, and its code { mu, sigma }
  index: undefined,
  code: null,
  eps: [], // ten draws of the noise, after none at all
  draws: [], // codes: the mean itself and the ten draws
  pictures: [], // of them
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

// ----------------------------------------------------------------------- one image goes through

/**
 * The image, an empty pad where x is null; ten draws of the noise, `anew` where the die asks.
 * @param {Float32Array | null} x @param {boolean} [anew]
 */
function setImage(x, anew) {
  const { d, encode, decode } = state.model;
  if (anew || state.eps[0]?.length !== d) {
    state.eps = radios.map((_, i) => Array.from({ length: d }, () => (i ? normal() : 0)));
  }
  const code = x && encode(x);
  const draw = (eps) => code.mu.map((m, k) => m + code.sigma[k] * eps[k]);
  const draws = code ? state.eps.map(draw) : [];
  Object.assign(state, { x, code, draws, pictures: draws.map(decode) });
  radios.forEach((radio, i) => showPixels(radio.nextSibling, state.pictures[i] ?? BLACK));
  showStrip();
}

function showStrip() {
  const { x, code, chosen, model, pictures, draws, eps } = state;
  radios[chosen].checked = true;
  showPixels($("picture"), pictures[chosen] ?? BLACK);
  $("picture").ariaLabel = code ? "The picture decoded from the drawn z" : "Empty";
  const costs = pictures.map((picture) => crossEntropy(x, picture));
  const [recon, klNow] = code ? [costs[chosen], kl(code)] : [0, 0];
  const share = (nats) => `${clamp((100 * nats) / data.scale, 0, 99.5)}%`;
  $("recon-bar").style.width = share(recon);
  $("kl-bar").style.width = share(klNow);
  document.body.classList.toggle("empty", !code);
  ticks.forEach((tick, i) => (tick.style.left = share(costs[i + 1])));
  const flat = model.d === 2;
  if (code) {
    setTexts({
      ...{ recon: number(recon, 1), kl: number(klNow, 1) },
      ...{ eps: `ε = ${vector(eps[chosen])}`, "z-drawn": vector(draws[chosen]) },
      mu: flat ? `μ = ${vector(code.mu)}` : `μ ± 2σ of ${model.d} numbers,`,
      sigma: flat ? `σ = ${vector(code.sigma)}` : "those with most KL on top",
    });
    const what = chosen ? `draw ${chosen} of ten` : "the mean, without noise";
    const parts = [$("image-name"), $("mu"), $("sigma")].map((part) => part.textContent);
    const costing = `reconstruction ${number(recon, 1)} nats, KL ${number(klNow, 1)} nats.`;
    say(`${parts.join(", ")}. ${what}: ${costing}`);
  } else setTexts({ recon: "–", kl: "–", eps: "", "z-drawn": "", mu: "", sigma: "" });
  drawLens();
  map.drawTop();
  tellAddress();
}

/** The code of the image from near: in the plane its ellipses, else an interval for each dimension. */
function drawLens() {
  const ctx = fitCanvas($("lens"));
  const side = $("lens").clientWidth;
  const { model, code, draws, chosen } = state;
  if (!code) return;
  const { mu, sigma } = code;
  if (model.d === 2) {
    const unit = side / (6.5 * Math.max(...sigma));
    /** @type {(z: number[]) => number[]} */
    const place = ([x, y]) => [side / 2 + unit * (x - mu[0]), side / 2 - unit * (y - mu[1])];
    labels.forEach((label, i) => {
      const [u, v] = place(codeOf(model, i));
      ctx.fillStyle = data.colors[label];
      ctx.fillRect(u - 2, v - 2, 4, 4);
    });
    return drawCode(ctx, state, place, unit);
  }
  const [unit, height] = [side / 8, side / model.d]; // −4 to 4 standard deviations of the prior
  const bar = (name, from, to, y, h) => {
    ctx.fillStyle = color(name);
    ctx.fillRect(side / 2 + from * unit, y, (to - from) * unit, h);
  };
  bar("--line", -2, 2, 0, side); // where the prior has 95 %
  model.order.forEach((k, row) => {
    const [y, z] = [height * row, draws[chosen][k]];
    bar("--accent", mu[k] - 2 * sigma[k], mu[k] + 2 * sigma[k], y + 1, height - 2);
    bar("--ink", z - 2 / unit, z + 2 / unit, y + height / 2 - 2, 4);
  });
}

radios.forEach((radio, i) => {
  radio.onchange = () => {
    state.chosen = i;
    showStrip();
  };
});
$("die").onclick = () => {
  const others = "⚀⚁⚂⚃⚄⚅".replace($("die").textContent, ""); // so that one sees it roll
  $("die").textContent = others[Math.floor(5 * Math.random())];
  setImage(state.x, true);
};

const pad = makePad((x, name) => {
  state.index = undefined;
  setTexts({ "image-name": name });
  setImage(x);
});
function showTestImage(i) {
  pad.show(imageAt(i), `test image ${i}: ${nameOf(i)}`);
  state.index = i;
}
$("example").onclick = () => showTestImage(((state.index ?? -1) + 1) % labels.length);

// ----------------------------------------------------------------------- a point of the space

/**
 * Moves the point, A or B to z: for good or, the point, for as long as the mouse is there.
 * @param {"point" | "a" | "b"} what @param {number[] | null} z
 */
function move(what, z, kept = true) {
  if (kept) pause();
  if (what === "point") return setPoint(z, kept);
  state[what] = z;
  showFilm();
  walkTo(what === "a" ? 0 : 1);
}
function setPoint(z, kept) {
  if (kept) state.kept = z;
  state.point = z ?? state.kept;
  askPoint(["once a frame"]);
}
const askPoint = inSlices(() => {
  const { model, point } = state;
  const text = model.d === 2 ? `z = ${vector(point)}` : vector(point);
  state.near = nearest(model.codes, point);
  showPixels($("decoded"), model.decode(point));
  showPixels($("near"), imageAt(state.near));
  $("near-dot").style.background = data.colors[labels[state.near]];
  setTexts({ z: text, "near-name": nameOf(state.near) });
  $("decoded").ariaLabel = `Picture decoded from ${text}`;
  $("near").ariaLabel = `Test image ${state.near}, class ${nameOf(state.near)}`;
  if (model.d === 2) map.drawTop();
  else showSliders();
  say(`${text}. Nearest test image: ${nameOf(state.near)}.`);
  tellAddress();
});
$("through").onclick = () => showTestImage(state.near);
$("from-image").onclick = () => state.code && move("point", state.code.mu);

const map = makeMap(models[0], { ...data, labels }, state, move);
for (const button of $("legend").children) {
  button.onclick = () => {
    const label = Number(button.value);
    state.alone = state.alone === label ? null : label;
    markPressed($("legend"), state.alone === label ? button : null);
    map.redraw();
  };
}

// Sliders, one a dimension: the pictures at both ends are those of z with this dimension there.
const sliders = models[1].order.map((k) => {
  const slider = $(`dim-${k}`);
  const ends = [...slider.closest(".slider").querySelectorAll("canvas")];
  const at = (z, value) => z.map((v, j) => (j === k ? Number(value) : v));
  slider.oninput = () => move("point", at(state.kept, slider.value));
  return { k, slider, ends, at, shown: slider.labels[0].querySelector("output") };
});
const showPicture = ({ canvas, z }) => showPixels(canvas, state.model.decode(z));
const askEnds = inSlices(showPicture);
function showSliders() {
  const pictures = sliders.flatMap(({ k, slider, ends, at, shown }) => {
    slider.value = state.point[k];
    shown.textContent = number(state.point[k]);
    const z = [slider.min, slider.max].map((value) => at(state.point, value));
    return ends.map((canvas, i) => ({ canvas, z: z[i] }));
  });
  askEnds(pictures);
}

// --------------------------------------------------------------------------------- from A to B

const askFilm = inSlices(showPicture);
function showFilm() {
  const { a, b, arc, model } = state;
  state.way = Array.from({ length: 21 }, (_, i) => between(a, b, i / 20, arc));
  askFilm(film.map((canvas, i) => ({ canvas, z: state.way[2 * i] })));
  const [from, to] = [a, b].map((z) => nameOf(nearest(model.codes, z)));
  const way = arc ? "arc" : "line";
  $("film").ariaLabel = `Pictures on the ${way} from A, near ${from}, to B, near ${to}`;
}
function markStep(t) {
  state.t = t;
  $("step").value = t;
  $("step").ariaValueText = `${Math.round(100 * t)} % of the way from A to B`;
  film.forEach((canvas, i) => canvas.classList.toggle("now", Math.round(10 * t) === i));
}
function walkTo(t) {
  markStep(t);
  setPoint(between(state.a, state.b, t, state.arc), true);
}
function pause() {
  state.playing = false;
  setTexts({ play: calm.matches ? "Step" : "Play" });
}
let direction = 1;
/** Four seconds there, four seconds back. */
function play(last) {
  requestAnimationFrame((now) => {
    if (!state.playing) return;
    const t = clamp(state.t + (direction * Math.min(now - last, 100)) / 4000, 0, 1);
    if (t === 0 || t === 1) direction = t ? -1 : 1;
    walkTo(t);
    play(now);
  });
}
$("play").onclick = () => {
  if (calm.matches) return walkTo(state.t > 0.999 ? 0 : clamp(state.t + 0.1, 0, 1)); // no motion unasked
  if (state.playing) return pause();
  state.playing = true;
  setTexts({ play: "Pause" });
  play(performance.now());
};
function stopAt(t) {
  pause();
  walkTo(t);
}
$("step").oninput = () => stopAt(Number($("step").value));
film.forEach((canvas, i) => (canvas.onclick = () => stopAt(i / 10)));
$("set-a").onclick = () => move("a", state.kept);
$("set-b").onclick = () => move("b", state.kept);
function setArc(arc) {
  $("arc").checked = state.arc = arc;
  showFilm();
}
$("arc").onchange = () => {
  setArc($("arc").checked);
  walkTo(state.t);
};
calm.onchange = pause;

// ------------------------------------------------------------- which model, the address, the start

function setModel(model) {
  const { a, b, kept } = state;
  if (state.model) state.model.places = { a, b, kept };
  Object.assign(state, { model, ...model.places });
  document.body.dataset.d = model.d; // for what the style hides
  markPressed($("models"), $("models").children[models.indexOf(model)]);
  const start = state.x ? model.encode(state.x).mu : codeOf(model, data.first);
  move("point", state.kept ?? start);
  setImage(state.x);
  markStep(0);
  showFilm();
}
models.forEach((model, i) => ($("models").children[i].onclick = () => setModel(model)));

let addressWaiting = 0;
function tellAddress() {
  if (window !== parent) return; // in a frame the address is not the reader's
  clearTimeout(addressWaiting);
  addressWaiting = setTimeout(() => {
    const { model, index, kept, a, b, arc } = state;
    const ends = a === model.ends.a && b === model.ends.b ? {} : { a, b };
    const way = arc ? "arc" : undefined;
    const address = writeAddress({ model: model.d, image: index, z: kept, ...ends, way });
    history.replaceState(null, "", address);
  }, 400);
}
function followAddress() {
  const asked = readAddress(location.hash, models, state.model ?? models[0]);
  if (asked.model !== state.model) setModel(asked.model);
  Object.assign(state, { a: asked.a ?? state.a, b: asked.b ?? state.b });
  setArc(asked.arc ?? state.arc);
  if (asked.image !== undefined || !state.x) showTestImage(asked.image ?? data.first);
  move("point", asked.z ?? asked.a ?? state.kept);
  if (!asked.z) return;
  map.follow(asked.z);
  if (asked.image === undefined) $("space-title").scrollIntoView(); // a link to this very place
}
window.onhashchange = followAddress;

function layout() {
  pad.draw();
  drawLens();
}
followAddress();
new ResizeObserver(layout).observe($("lens"));
dark().addEventListener("change", layout);
fitFrame();
Object.assign(window, { explorer: { models, state } }); // for the console, and for tests
