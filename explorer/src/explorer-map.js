// The map of the plane: pictures of it behind, codes of test images, the point, A, B and the image.

import { $, color, fitCanvas, number } from "./shared.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const NEAR = 14; // pixels within which a press takes hold of A or B

const distance = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);

/** Text with a rim, to be legible on dots and pictures. */
function write(ctx, text, x, y, font) {
  Object.assign(ctx, { font: `${font} system-ui, sans-serif`, lineJoin: "round", lineWidth: 4 });
  Object.assign(ctx, { textAlign: "center", textBaseline: "middle" });
  ctx.strokeStyle = color("--paper");
  ctx.strokeText(text, x, y);
  ctx.fillStyle = color("--ink");
  ctx.fillText(text, x, y);
}

/**
 * Spreads work over frames: the function that it returns asks for it. In each frame the job is done
 * again and again for 8 ms, or until it says that nothing is left; then `shown` is called.
 */
export function inSlices(job, shown = () => {}) {
  let waiting = false;
  const ask = () => {
    if (!waiting) requestAnimationFrame(go);
    waiting = true;
  };
  const go = () => {
    waiting = false;
    const end = performance.now() + 8;
    let more = true;
    while (more && performance.now() < end) more = job();
    shown();
    if (more) ask();
  };
  return ask;
}

/** The ellipses of q(z | x) one and two standard deviations away, and its draws. */
export function drawEllipse(ctx, code, draws, chosen, place, unit) {
  const [u, v] = place(code.mu);
  for (const [width, style] of [
    [4.5, color("--paper")],
    [1.5, color("--accent")],
  ]) {
    Object.assign(ctx, { lineWidth: width, strokeStyle: style });
    for (const k of [1, 2]) {
      ctx.beginPath();
      ctx.ellipse(u, v, k * code.sigma[0] * unit, k * code.sigma[1] * unit, 0, 0, 7);
      ctx.stroke();
    }
  }
  draws.forEach((z, i) =>
    disc(ctx, place(z), i === chosen ? 5 : 2, color("--accent"), i === chosen),
  );
}

function disc(ctx, [x, y], radius, fill, rim) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.fillStyle = fill;
  ctx.fill();
  if (!rim) return;
  Object.assign(ctx, { lineWidth: 1.5, strokeStyle: color("--paper") });
  ctx.stroke();
}

/**
 * The map over the canvases #cloud and #cursor. `plane` is the model with its codes, `state` what it
 * shows; `moved(what, z, kept)` is called when the pointer or a key moves the point, A or B.
 */
export function makeMap(plane, { labels, colors, names, tags }, state, moved) {
  // All codes but the outermost: three in a thousand at each end.
  const [low, high] = [0.003, 0.997].map((share) =>
    [0, 1].map((k) => {
      const axis = plane.codes.filter((_, i) => i % 2 === k).sort();
      return axis[Math.round(share * (axis.length - 1))];
    }),
  );
  const whole = {
    centre: low.map((v, k) => (v + high[k]) / 2),
    reach: 0.55 * Math.max(...low.map((v, k) => high[k] - v)), // half a side; both axes one scale
  };
  const view = { ...whole };
  const top = $("cursor");
  let side = 1; // of the map, in CSS pixels
  const place = ([x, y]) => [
    side * (0.5 + (x - view.centre[0]) / (2 * view.reach)),
    side * (0.5 - (y - view.centre[1]) / (2 * view.reach)),
  ];
  const codeAt = ([x, y]) => [
    view.centre[0] + 2 * view.reach * (x / side - 0.5),
    view.centre[1] - 2 * view.reach * (y / side - 0.5),
  ];

  // The pictures lie on a fixed lattice, finer when zoomed in, and are kept: panning decodes new ones.
  const tiles = new Map();
  const mosaic = document.createElement("canvas");
  function lattice() {
    const step = 2 ** Math.floor(Math.log2((2 * view.reach * 56) / side)); // 28 to 56 pixels
    const from = view.centre.map((v) => Math.floor((v - view.reach) / step));
    return { step, from, count: Math.ceil((2 * view.reach) / step) + 1 };
  }
  let wanted = []; // [key, code] of the tiles to come, the last first
  const ask = inSlices(() => {
    const [key, z] = wanted.pop() ?? [];
    if (key)
      tiles.set(
        key,
        Uint8Array.from(plane.decode(z), (v) => 110 * v),
      );
    return wanted.length > 0;
  }, drawCloud);
  /** Looks for tiles that are missing, and asks for them from the middle outwards. */
  function askTiles() {
    const { step, from, count } = lattice();
    wanted = [];
    for (let i = 0; i < count * count && $("show-mosaic").checked; i++) {
      const [x, y] = [from[0] + (i % count), from[1] + Math.floor(i / count)];
      if (!tiles.has(`${step} ${x} ${y}`)) {
        wanted.push([`${step} ${x} ${y}`, [(x + 0.5) * step, (y + 0.5) * step]]);
      }
    }
    const away = ([, z]) => distance(z, view.centre);
    wanted.sort((p, q) => away(q) - away(p));
    ask();
  }
  function drawMosaic(ctx) {
    const { step, from, count } = lattice();
    const image = new ImageData(28 * count, 28 * count);
    const ink = new Uint32Array(image.data.buffer);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches ? 0xffffff : 0;
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < count; column++) {
        const tile = tiles.get(`${step} ${from[0] + column} ${from[1] + row}`);
        const start = 28 * (28 * count * (count - 1 - row) + column);
        for (let i = 0; tile && i < 784; i++) {
          ink[start + 28 * count * Math.floor(i / 28) + (i % 28)] = (tile[i] << 24) | dark;
        }
      }
    }
    Object.assign(mosaic, { width: image.width, height: image.height });
    mosaic.getContext("2d").putImageData(image, 0, 0);
    const [x, y] = place([from[0] * step, (from[1] + count) * step]);
    const size = (count * step * side) / (2 * view.reach);
    ctx.drawImage(mosaic, x, y, size, size);
  }

  function drawCloud() {
    const ctx = fitCanvas($("cloud"));
    ctx.fillStyle = color("--paper");
    ctx.fillRect(0, 0, side, side);
    if ($("show-mosaic").checked) drawMosaic(ctx);
    for (let i = 0; i < labels.length && $("show-dots").checked; i++) {
      ctx.globalAlpha = state.alone === null ? 0.75 : state.alone === labels[i] ? 0.9 : 0.07;
      disc(
        ctx,
        place(plane.codes.subarray(2 * i, 2 * i + 2)),
        side > 400 ? 2.2 : 1.6,
        colors[labels[i]],
      );
    }
    ctx.globalAlpha = 1;
    for (const [label, z] of Object.entries(tags)) {
      if ((state.alone ?? +label) === +label) write(ctx, names[label], ...place(z), "650 15px");
    }
    const power = 10 ** Math.floor(Math.log10(view.reach));
    const every = power * (view.reach < 2 * power ? 0.5 : view.reach < 5 * power ? 1 : 2);
    const digits = Math.max(0, -Math.floor(Math.log10(every)));
    for (const k of [0, 1]) {
      const first = Math.ceil((view.centre[k] - view.reach) / every);
      for (let n = first; n * every < view.centre[k] + view.reach; n++) {
        const at = place([n * every, n * every])[k];
        if (at < 30 || at > side - 30) continue;
        const text = number(n * every, digits);
        write(ctx, text, ...(k ? [18, at] : [at, side - 12]), "12px");
      }
    }
    write(ctx, "z₁", side - 14, side - 13, "italic 14px");
    write(ctx, "z₂", 14, 14, "italic 14px");
  }

  function drawTop() {
    const ctx = fitCanvas(top);
    const [x, y] = place(state.point);
    Object.assign(ctx, { strokeStyle: color("--ink"), lineWidth: 1.5 });
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    for (const z of state.way) ctx.lineTo(...place(z));
    ctx.stroke();
    ctx.setLineDash([]);
    if (state.code)
      drawEllipse(ctx, state.code, state.draws, state.chosen, place, side / (2 * view.reach));
    ctx.globalAlpha = 0.55;
    Object.assign(ctx, { strokeStyle: color("--ink"), lineWidth: 1 });
    for (const line of [
      [0, y, side, y],
      [x, 0, x, side],
    ]) {
      ctx.beginPath();
      ctx.moveTo(line[0], line[1]);
      ctx.lineTo(line[2], line[3]);
      ctx.stroke();
    }
    ctx.globalAlpha = 1;
    disc(ctx, [x, y], 5, color("--ink"), true);
    for (const end of ["a", "b"]) {
      disc(ctx, place(state[end]), 11, color("--ink"), true);
      ctx.fillStyle = color("--paper");
      ctx.font = "650 12px system-ui, sans-serif";
      Object.assign(ctx, { textAlign: "center", textBaseline: "middle" });
      ctx.fillText(end.toUpperCase(), ...place(state[end]));
    }
    if (state.code) {
      const [u, v] = place(state.code.mu);
      const beside = (2 * state.code.sigma[0] * side) / (2 * view.reach) + 12;
      write(ctx, "x", u + (u < side / 2 ? beside : -beside), v, "650 14px");
    }
  }

  function look(centre, reach) {
    view.reach = Math.min(1.5 * whole.reach, Math.max(whole.reach / 200, reach));
    view.centre = centre.map((v, k) => {
      const most = 1.5 * whole.reach; // not out of sight
      return Math.min(whole.centre[k] + most, Math.max(whole.centre[k] - most, v));
    });
    if (tiles.size > 6000) tiles.clear();
    drawCloud();
    drawTop();
    askTiles();
  }
  /** Zoom by a factor, so that what is under `at` (in pixels) stays there. */
  function zoom(factor, at = [side / 2, side / 2]) {
    const fixed = codeAt(at);
    const reach = Math.min(1.5 * whole.reach, Math.max(whole.reach / 200, view.reach * factor));
    look(
      fixed.map((v, k) => v + ((view.centre[k] - v) * reach) / view.reach),
      reach,
    );
  }

  // A press takes hold of A, of B or, with a finger, of the point; a mouse drags the map.
  const fingers = new Map();
  let held = null; // "a", "b", "point", "map"
  let last = [0, 0];
  const at = (event) => [event.offsetX, event.offsetY];
  top.addEventListener("pointerdown", (event) => {
    top.setPointerCapture(event.pointerId);
    last = at(event);
    fingers.set(event.pointerId, last);
    const reach = event.pointerType === "mouse" ? NEAR : 2 * NEAR;
    held = ["a", "b"].find((end) => distance(place(state[end]), last) < reach);
    held ??= event.pointerType === "mouse" ? "map" : "point";
    if (fingers.size === 2) held = "map";
    if (held !== "a" && held !== "b") moved("point", codeAt(last), true);
  });
  top.addEventListener("pointermove", (event) => {
    const now = at(event);
    if (!fingers.has(event.pointerId)) {
      if (!state.playing) moved("point", codeAt(now), false);
      return;
    }
    const before = [...fingers.values()];
    fingers.set(event.pointerId, now);
    if (fingers.size === 2) {
      const after = [...fingers.values()];
      const middle = after[0].map((v, k) => (v + after[1][k]) / 2);
      zoom(distance(...before) / Math.max(1, distance(...after)), middle);
      const shift = middle.map((v, k) => v - (before[0][k] + before[1][k]) / 2);
      pan(shift);
    } else if (held === "map") pan([now[0] - last[0], now[1] - last[1]]);
    else moved(held, codeAt(now), true);
    last = now;
  });
  function pan([right, down]) {
    const unit = (2 * view.reach) / side;
    look([view.centre[0] - unit * right, view.centre[1] + unit * down], view.reach);
  }
  for (const end of ["pointerup", "pointercancel"])
    top.addEventListener(end, (event) => fingers.delete(event.pointerId));
  top.addEventListener("pointerleave", () => moved("point", null, false));
  // The wheel scrolls the page, until the map was clicked or Ctrl is held.
  top.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && document.activeElement !== top) return;
      event.preventDefault();
      zoom(Math.exp(event.deltaY / 400), at(event));
    },
    { passive: false },
  );
  top.addEventListener("keydown", (event) => {
    const zooms = { "+": 0.8, "=": 0.8, "-": 1.25 };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (ARROWS[event.key]) {
      const step = view.reach / (event.shiftKey ? 8 : 40);
      moved(
        "point",
        state.kept.map((v, k) => v + step * ARROWS[event.key][k]),
        true,
      );
    } else if (zooms[event.key]) zoom(zooms[event.key], place(state.kept));
    else if (event.key === "0") look(whole.centre, whole.reach);
    else return;
    event.preventDefault();
  });
  $("zoom-in").addEventListener("click", () => zoom(0.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
  $("zoom-all").addEventListener("click", () => look(whole.centre, whole.reach));
  $("zoom-image").addEventListener("click", () => {
    if (state.code) look(state.code.mu, 4 * Math.max(...state.code.sigma));
  });
  for (const id of ["show-mosaic", "show-dots"]) $(id).addEventListener("change", askTiles);

  return {
    drawTop,
    drawCloud,
    layout() {
      side = top.clientWidth || 1;
      look(view.centre, view.reach);
    },
  };
}
