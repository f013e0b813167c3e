// The map of the plane: pictures of it behind, codes of test images, the point, A, B and the image.

import { $, clamp, color, fitCanvas, inSlices, number } from "./shared.js";

const TILE = 40; // about so many pixels wide is a picture of the plane
const NEAR = 14; // pixels within which a press takes hold of A or B, for a finger twice as many
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const distance = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);

/** Text with a rim, to be legible on dots and pictures. */
function write(ctx, text, [x, y], font = "12px") {
  Object.assign(ctx, { font: `${font} system-ui, sans-serif`, lineJoin: "round", lineWidth: 4 });
  Object.assign(ctx, { textAlign: "center", textBaseline: "middle" });
  Object.assign(ctx, { strokeStyle: color("--paper"), fillStyle: color("--ink") });
  ctx.strokeText(text, x, y);
  ctx.fillText(text, x, y);
}

function disc(ctx, [x, y], radius, fill, rim = "transparent") {
  Object.assign(ctx, { fillStyle: fill, strokeStyle: rim, lineWidth: 1.5 });
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.fill();
  ctx.stroke();
}

/**
 * What the encoder says of the image: ellipses one and two standard deviations away from its mean,
 * and the codes that were drawn. `place` gives the pixels of a code, `unit` how many make one.
 */
export function drawCode(ctx, { code, draws, chosen }, place, unit) {
  const [paper, accent] = [color("--paper"), color("--accent")];
  for (const k of [1, 2]) {
    ctx.beginPath();
    ctx.ellipse(...place(code.mu), ...code.sigma.map((s) => k * s * unit), 0, 0, 7);
    for (const [lineWidth, strokeStyle] of [
      [4.5, paper],
      [1.5, accent],
    ]) {
      Object.assign(ctx, { lineWidth, strokeStyle });
      ctx.stroke();
    }
  }
  draws.forEach((z) => disc(ctx, place(z), 2, accent));
  disc(ctx, place(draws[chosen]), 5, accent, paper);
}

/**
 * The map, on the canvases #cloud and #cursor. `plane` is the model with its codes, `state` what is
 * shown; `moved(what, z, kept)` is told that "point", "a" or "b" was moved to z, and whether for good.
 */
export function makeMap(plane, { labels, colors, names, tags }, state, moved) {
  // All codes are in sight but the outermost, three in a thousand at each end.
  const axes = [0, 1].map((k) => plane.codes.filter((_, i) => i % 2 === k).sort());
  const spans = axes.map((axis) =>
    [0.003, 0.997].map((q) => axis[Math.round(q * (axis.length - 1))]),
  );
  const whole = {
    centre: spans.map(([low, high]) => (low + high) / 2),
    reach: 0.55 * Math.max(...spans.map(([low, high]) => high - low)), // half a side of the map
  };
  const view = { ...whole };
  const top = $("cursor");
  let side = 1; // of the map, in CSS pixels
  const unit = () => side / (2 * view.reach); // pixels
  const place = ([x, y]) => [
    side / 2 + unit() * (x - view.centre[0]),
    side / 2 - unit() * (y - view.centre[1]),
  ];
  const codeAt = ([x, y]) => [
    view.centre[0] + (x - side / 2) / unit(),
    view.centre[1] - (y - side / 2) / unit(),
  ];

  // The pictures lie on a lattice, finer when zoomed in, and are kept: panning decodes only new ones.
  const tiles = new Map(); // "step x y" to a canvas
  /** Keys and codes of the pictures in sight, those in the middle last. */
  function lattice() {
    const step = 2 ** Math.round(Math.log2(TILE / unit()));
    const from = view.centre.map((v) => Math.floor((v - view.reach) / step));
    const count = Math.ceil((2 * view.reach) / step) + 1;
    const cells = Array.from({ length: count * count }, (_, i) => {
      const [x, y] = [from[0] + (i % count), from[1] + Math.floor(i / count)];
      return { step, key: `${step} ${x} ${y}`, z: [(x + 0.5) * step, (y + 0.5) * step] };
    });
    return cells.sort((p, q) => distance(q.z, view.centre) - distance(p.z, view.centre));
  }
  let missing = [];
  const askTiles = inSlices(() => {
    const { key, z } = missing.pop() ?? {};
    if (!key) return false;
    const tile = new OffscreenCanvas(28, 28);
    const image = new ImageData(28, 28);
    const ink = matchMedia("(prefers-color-scheme: dark)").matches ? 255 : 0;
    plane.decode(z).forEach((v, i) => image.data.set([ink, ink, ink, 110 * v], 4 * i));
    tile.getContext("2d").putImageData(image, 0, 0);
    tiles.set(key, tile);
    return true;
  }, drawCloud);

  function drawCloud() {
    const ctx = fitCanvas($("cloud"));
    ctx.fillStyle = color("--paper");
    ctx.fillRect(0, 0, side, side);
    for (const { key, z, step } of $("show-mosaic").checked ? lattice() : []) {
      const [[x, y], size] = [place(z), step * unit()];
      if (tiles.has(key)) ctx.drawImage(tiles.get(key), x - size / 2, y - size / 2, size, size);
    }
    for (let i = 0; i < labels.length && $("show-dots").checked; i++) {
      ctx.globalAlpha = (state.alone ?? labels[i]) !== labels[i] ? 0.07 : 0.8;
      const at = place(plane.codes.subarray(2 * i, 2 * i + 2));
      disc(ctx, at, side > 400 ? 2.2 : 1.6, colors[labels[i]]);
    }
    ctx.globalAlpha = 1;
    for (const [label, z] of Object.entries(tags)) {
      if ((state.alone ?? +label) === +label) write(ctx, names[label], place(z), "650 15px");
    }
    const power = 10 ** Math.floor(Math.log10(view.reach));
    const every = power * (view.reach < 2 * power ? 0.5 : view.reach < 5 * power ? 1 : 2);
    for (const k of [0, 1]) {
      const first = Math.ceil((view.centre[k] - view.reach) / every);
      for (let n = first; n * every < view.centre[k] + view.reach; n++) {
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
    Object.assign(ctx, { strokeStyle: ink, fillStyle: ink, lineWidth: 1.5 });
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    for (const z of state.way) ctx.lineTo(...place(z));
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.globalAlpha = 0.55;
    ctx.fillRect(0, y - 0.5, side, 1);
    ctx.fillRect(x - 0.5, 0, 1, side);
    ctx.globalAlpha = 1;
    if (state.code) {
      drawCode(ctx, state, place, unit());
      const [u, v] = place(state.code.mu);
      const beside = 2 * state.code.sigma[0] * unit() + 12;
      write(ctx, "x", [u + (u < side / 2 ? beside : -beside), v], "650 14px");
    }
    disc(ctx, [x, y], 5, ink, paper);
    for (const end of ["a", "b"]) {
      const at = place(state[end]);
      disc(ctx, at, 11, ink, paper);
      Object.assign(ctx, { fillStyle: paper, font: "650 12px system-ui, sans-serif" });
      Object.assign(ctx, { textAlign: "center", textBaseline: "middle" });
      ctx.fillText(end.toUpperCase(), ...at);
    }
  }

  /** Moves the view, not out of sight of the codes. */
  function look(centre, reach) {
    view.reach = clamp(reach, whole.reach / 200, 1.5 * whole.reach);
    const most = 1.5 * whole.reach;
    view.centre = centre.map((v, k) => clamp(v, whole.centre[k] - most, whole.centre[k] + most));
    if (tiles.size > 4000) tiles.clear();
    missing = $("show-mosaic").checked ? lattice().filter(({ key }) => !tiles.has(key)) : [];
    drawTop();
    askTiles(); // and drawCloud, in the next frame
  }
  /** Zooms by a factor; what is under `at`, in pixels, stays there. */
  function zoom(factor, at = [side / 2, side / 2]) {
    const before = codeAt(at);
    look(view.centre, view.reach * factor);
    const after = codeAt(at);
    look(
      view.centre.map((v, k) => v + before[k] - after[k]),
      view.reach,
    );
  }
  const pan = ([x, y]) =>
    look([view.centre[0] - x / unit(), view.centre[1] + y / unit()], view.reach);

  // A press takes hold of A or B; else a mouse drags the map, a finger the point, two fingers the map.
  const fingers = new Map(); // what is pressed, and where
  let held = null;
  const at = (event) => [event.offsetX, event.offsetY];
  top.addEventListener("pointerdown", (event) => {
    const mouse = event.pointerType === "mouse";
    top.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    held = ["a", "b"].find(
      (end) => distance(place(state[end]), at(event)) < (mouse ? 1 : 2) * NEAR,
    );
    held ??= mouse ? "map" : "point";
    if (held !== "a" && held !== "b") moved("point", codeAt(at(event)), true);
  });
  top.addEventListener("pointermove", (event) => {
    const pressed = fingers.has(event.pointerId);
    if (!pressed && !state.playing) moved("point", codeAt(at(event)), false);
    if (!pressed) return;
    const middle = () =>
      [0, 1].map((k) => [...fingers.values()].reduce((sum, p) => sum + p[k], 0) / fingers.size);
    const spread = () => Math.max(20, distance(...[...fingers.values()].slice(0, 2)));
    const [from, apart] = [middle(), fingers.size > 1 && spread()];
    fingers.set(event.pointerId, at(event));
    const to = middle();
    if (apart) zoom(apart / spread(), to);
    if (apart || held === "map") pan([to[0] - from[0], to[1] - from[1]]);
    else moved(held, codeAt(at(event)), true);
  });
  for (const end of ["pointerup", "pointercancel"])
    top.addEventListener(end, (event) => fingers.delete(event.pointerId));
  top.addEventListener("pointerleave", () => moved("point", null, false));
  function wheel(event) {
    if (!event.ctrlKey && document.activeElement !== top) return; // the wheel scrolls the page
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 400), at(event));
  }
  top.addEventListener("wheel", wheel, { passive: false });
  const all = () => look(whole.centre, whole.reach);
  const keys = { "+": () => zoom(0.8), "=": () => zoom(0.8), "-": () => zoom(1.25), 0: all };
  top.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if ((!arrow && !keys[event.key]) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (!arrow) return keys[event.key]();
    const step = view.reach / (event.shiftKey ? 8 : 40);
    moved(
      "point",
      state.kept.map((v, k) => v + step * arrow[k]),
      true,
    );
  });
  $("zoom-in").addEventListener("click", () => zoom(0.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
  $("zoom-all").addEventListener("click", all);
  $("zoom-image").addEventListener("click", () => {
    if (state.code) look(state.code.mu, 4 * Math.max(...state.code.sigma));
  });
  const redraw = () => look(view.centre, view.reach);
  for (const id of ["show-mosaic", "show-dots"]) $(id).addEventListener("change", redraw);
  function layout() {
    side = top.clientWidth || 1; // none while the other model is looked at
    redraw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    tiles.clear();
    layout();
  });
  new ResizeObserver(layout).observe(top);
  return { drawTop, redraw };
}
