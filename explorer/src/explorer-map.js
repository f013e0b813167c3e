// The map of the plane: pictures of it behind, codes of test images, the point, A, B and the image.

import { $, arrowOf, clamp, color, dark, disc } from "./shared.js";
import { fitCanvas, inSlices, number, showPixels, write } from "./shared.js";
import { codeOf } from "./places.js";

const TILE = 40; // about so many pixels wide is a picture of the plane
const NEAR = 14; // pixels within which a press takes hold of A or B, for a finger twice as many
const distance = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);

/**
 * What the encoder says of the image: ellipses one and two standard deviations away from its mean,
 * and the codes that were drawn. `place` gives the pixels of a code, `unit` how many make one.
 * @param {CanvasRenderingContext2D} ctx
 * @param {{code: import("./network.js").Code, draws: number[][], chosen: number}} state
 * @param {(z: number[]) => number[]} place @param {number} unit
 */
export function drawCode(ctx, { code, draws, chosen }, place, unit) {
  const [paper, accent] = [color("--paper"), color("--accent")];
  const [x, y] = place(code.mu);
  for (const k of [1, 2]) {
    ctx.beginPath();
    ctx.ellipse(x, y, k * code.sigma[0] * unit, k * code.sigma[1] * unit, 0, 0, 7);
    Object.assign(ctx, { lineWidth: 4.5, strokeStyle: paper });
    ctx.stroke();
    Object.assign(ctx, { lineWidth: 1.5, strokeStyle: accent });
    ctx.stroke();
  }
  draws.forEach((z) => disc(ctx, place(z), 2, accent));
  disc(ctx, place(draws[chosen]), 5, accent, paper);
}

/**
 * The map, on the canvases #cloud and #cursor. `plane` is the model with its codes, `state` what is
 * shown; `moved(what, z, kept)` is told that "point", "a" or "b" was moved to z, and whether for good.
 * @param {import("./network.js").Model & import("./places.js").Codes} plane
 * @param {any} data of the page @param {any} state of explorer.js
 * @param {(what: any, z: number[] | null, kept?: boolean) => void} moved
 */
export function makeMap(plane, { labels, colors, names, tags, view: whole }, state, moved) {
  let { centre, reach } = whole; // half a side of the map
  const top = $("cursor");
  let side = 1; // of the map, in CSS pixels
  const unit = () => side / (2 * reach); // pixels
  const place = (z) => [0, 1].map((k) => side / 2 + (k ? -1 : 1) * unit() * (z[k] - centre[k]));
  const codeAt = (p) => centre.map((v, k) => v + ((k ? -1 : 1) * (p[k] - side / 2)) / unit());

  // The pictures lie on a lattice, finer when zoomed in, and are kept: panning decodes only new ones.
  const tiles = new Map(); // "step x y" to a canvas
  /** Keys and codes of the pictures in sight, those in the middle first. */
  function lattice() {
    if (!$("show-mosaic").checked) return [];
    const step = 2 ** Math.round(Math.log2(TILE / unit()));
    const from = centre.map((v) => Math.floor((v - reach) / step));
    const count = Math.ceil((2 * reach) / step) + 1;
    const cells = Array.from({ length: count * count }, (_, i) => {
      const [x, y] = [from[0] + (i % count), from[1] + Math.floor(i / count)];
      return { step, key: `${step} ${x} ${y}`, z: [(x + 0.5) * step, (y + 0.5) * step] };
    });
    return cells.sort((p, q) => distance(p.z, centre) - distance(q.z, centre));
  }
  const askTiles = inSlices(({ key, z }) => {
    tiles.set(key, new OffscreenCanvas(28, 28));
    showPixels(tiles.get(key), plane.decode(z), 1, dark().matches ? 255 : 0);
  }, drawCloud);

  function drawCloud() {
    const ctx = fitCanvas($("cloud"));
    ctx.fillStyle = color("--paper");
    ctx.fillRect(0, 0, side, side);
    for (const { key, z, step } of lattice()) {
      const [[x, y], size] = [place(z), step * unit()];
      if (tiles.has(key)) ctx.drawImage(tiles.get(key), x - size / 2, y - size / 2, size, size);
    }
    for (let i = 0; i < labels.length && $("show-dots").checked; i++) {
      ctx.globalAlpha = (state.alone ?? labels[i]) === labels[i] ? 0.8 : 0.07;
      disc(ctx, place(codeOf(plane, i)), side > 400 ? 2.2 : 1.6, colors[labels[i]]);
    }
    ctx.globalAlpha = 1;
    for (const [label, z] of Object.entries(tags)) {
      if ((state.alone ?? +label) === +label) write(ctx, names[label], place(z), "650 15px");
    }
    const power = 10 ** Math.floor(Math.log10(reach));
    const every = power * (reach < 2 * power ? 0.5 : reach < 5 * power ? 1 : 2);
    for (const k of [0, 1]) {
      const first = Math.ceil((centre[k] - reach) / every);
      for (let n = first; n * every < centre[k] + reach; n++) {
        const at = place([n * every, n * every])[k];
        const text = number(n * every, Math.max(0, -Math.floor(Math.log10(every))));
        if (at > 30 && at < side - 30) write(ctx, text, k ? [18, at] : [at, side - 12]);
      }
    }
    write(ctx, "z₁", [side - 14, side - 13], "italic 14px");
    write(ctx, "z₂", [14, 14], "italic 14px");
  }

  function drawTop() {
    const ctx = fitCanvas(top);
    const [ink, paper, [x, y]] = [color("--ink"), color("--paper"), place(state.point)];
    Object.assign(ctx, { strokeStyle: ink, fillStyle: ink, lineWidth: 1.5, globalAlpha: 0.55 });
    ctx.fillRect(0, y - 0.5, side, 1);
    ctx.fillRect(x - 0.5, 0, 1, side);
    ctx.globalAlpha = 1;
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    for (const [u, v] of state.way.map(place)) ctx.lineTo(u, v);
    ctx.stroke();
    ctx.setLineDash([]);
    if (state.code) {
      drawCode(ctx, state, place, unit());
      const [u, v] = place(state.code.mu);
      const beside = 2 * state.code.sigma[0] * unit() + 12;
      write(ctx, "x", [u + (u < side / 2 ? beside : -beside), v], "650 14px");
    }
    disc(ctx, [x, y], 5, ink, paper);
    for (const end of ["a", "b"]) {
      disc(ctx, place(state[end]), 11, paper, ink);
      write(ctx, end.toUpperCase(), place(state[end]), "650 12px");
    }
  }

  const within = (newReach) => clamp(newReach, whole.reach / 200, 1.5 * whole.reach);
  /** Moves the view, not out of sight of the codes. */
  function look(newCentre = centre, newReach = reach) {
    const most = 1.5 * whole.reach;
    reach = within(newReach);
    centre = newCentre.map((v, k) => clamp(v, whole.centre[k] - most, whole.centre[k] + most));
    if (tiles.size > 4000) tiles.clear();
    drawTop();
    askTiles(lattice().filter(({ key }) => !tiles.has(key))); // and drawCloud, in the next frame
  }
  /** Zooms by a factor; what is under `at`, in pixels, stays there. */
  function zoom(factor, at = [side / 2, side / 2]) {
    const [z, newReach] = [codeAt(at), within(factor * reach)];
    const share = newReach / reach;
    look(
      z.map((v, k) => v + share * (centre[k] - v)),
      newReach,
    );
  }

  // A press takes hold of A or B; else a mouse drags the map, a finger the point, two fingers the map.
  const fingers = new Map(); // what is pressed, and where
  let held = null;
  const at = (event) => [event.offsetX, event.offsetY];
  top.onpointerdown = (event) => {
    const mouse = event.pointerType === "mouse";
    const near = (end) => distance(place(state[end]), at(event)) < (mouse ? NEAR : 2 * NEAR);
    top.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    held = ["a", "b"].find(near) ?? (mouse ? "map" : "point");
    if (held === "map" || held === "point") moved("point", codeAt(at(event)));
  };
  const middle = () =>
    [0, 1].map((k) => [...fingers.values()].reduce((sum, p) => sum + p[k], 0) / fingers.size);
  const spread = ([p, q] = [...fingers.values()]) => Math.max(20, distance(p, q));
  top.onpointermove = (event) => {
    if (!fingers.has(event.pointerId)) {
      if (!state.playing) moved("point", codeAt(at(event)), false);
      return;
    }
    const [from, apart] = [codeAt(middle()), fingers.size > 1 && spread()];
    fingers.set(event.pointerId, at(event));
    if (apart) zoom(apart / spread(), middle());
    const to = codeAt(middle());
    if (apart || held === "map") look(centre.map((v, k) => v + from[k] - to[k]));
    else moved(held, to);
  };
  top.onpointerup = top.onpointercancel = (event) => fingers.delete(event.pointerId);
  top.onpointerleave = () => moved("point", null, false);
  function wheel(event) {
    if (!event.ctrlKey && document.activeElement !== top) return; // the wheel scrolls the page
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 400), at(event));
  }
  top.addEventListener("wheel", wheel, { passive: false });
  const all = () => look(whole.centre, whole.reach);
  const zoomHere = (factor) => () => zoom(factor, place(state.kept)); // the point stays in sight
  const keys = { "+": zoomHere(0.8), "=": zoomHere(0.8), "-": zoomHere(1.25), 0: all };
  top.onkeydown = (event) => {
    const arrow = arrowOf(event);
    const key = event.ctrlKey || event.metaKey ? null : keys[event.key]; // zoom of the browser
    if (!arrow && !key) return;
    event.preventDefault();
    if (key) return key();
    const step = reach / (event.shiftKey ? 8 : 40);
    const z = state.kept.map((v, k) => v + step * arrow[k]);
    moved("point", z);
    follow(z);
  };
  /** Moves the view to z where that is out of sight. */
  function follow(z) {
    if (z.length === 2 && z.some((v, k) => Math.abs(v - centre[k]) > reach)) look(z);
  }
  $("zoom-in").onclick = () => zoom(0.6);
  $("zoom-out").onclick = () => zoom(1 / 0.6);
  $("zoom-all").onclick = all;
  $("zoom-image").onclick = () =>
    state.code && look(state.code.mu, 4 * Math.max(...state.code.sigma));
  $("show-mosaic").onchange = $("show-dots").onchange = () => look();
  function layout() {
    side = top.clientWidth || 1; // none while the other model is looked at
    look();
  }
  dark().addEventListener("change", () => {
    tiles.clear();
    layout();
  });
  new ResizeObserver(layout).observe(top);
  return { drawTop, redraw: look, follow };
}
