// The pictures of the lab: the map and the curves.

import { GRID, HELD_OUT } from "./lab-settings.js";
import { color, dark, disc, fitCanvas, showPixels, write } from "./shared.js";

const mosaic = document.createElement("canvas");

/**
 * The codes before the decoded plane.
 * @param {HTMLCanvasElement} canvas @param {any} state of lab.js
 * @param {{labels: number[], names: string[]}} dataset @param {string[]} colors of the classes
 */
export function drawMap(canvas, { snapshot, settings }, { labels, names }, colors) {
  const ctx = fitCanvas(canvas);
  const { codes, view, reach, d } = snapshot;
  const [side, { showLabels }] = [canvas.clientWidth, settings];
  showPixels(mosaic, snapshot.mosaic, GRID, dark().matches ? 235 : 25);
  ctx.drawImage(mosaic, 0, 0, side, side);

  /**
   * Where code i is, in pixels. Codes of one dimension lie in a band for each class, or anywhere.
   * @param {number} i
   */
  const place = (i) => {
    const code = codes.subarray(i * d, (i + 1) * d);
    const [x, y] = [view.u, view.v].map((axis) => code.reduce((sum, v, k) => sum + v * axis[k], 0));
    const scatter = (i * 0.618034) % 1; // even, and the same each time
    const band = showLabels ? 1 - (labels[i] + 0.2 + 0.6 * scatter) / 5 : 2 * scatter - 1;
    return [(side * (1 + x / reach)) / 2, (side * (1 - (d === 1 ? band : y / reach))) / 2];
  };
  const middles = names.map(() => ({ x: 0, y: 0, n: 0 }));
  const plain = color("--muted");
  ctx.globalAlpha = 0.9;
  for (let i = 0; i < HELD_OUT; i++) {
    const [x, y] = place(i);
    const hue = showLabels ? colors[labels[i]] : plain;
    disc(ctx, [x, y], side > 400 ? 2.6 : 2.2, hue, dark().matches ? "#fff5" : "transparent");
    const middle = middles[labels[i]];
    Object.assign(middle, { x: middle.x + x, y: middle.y + y, n: middle.n + 1 });
  }
  ctx.globalAlpha = 1;
  ctx.setLineDash([4, 4]);
  for (const deviations of d === 1 ? [] : [1, 2]) {
    const radius = (side * deviations) / (2 * reach);
    disc(ctx, [side / 2, side / 2], radius, "transparent", color("--ink"));
  }
  ctx.setLineDash([]);
  const font = `650 ${names[0].length > 1 ? 12 : 16}px`;
  if (!showLabels) return;
  const spots = middles.map(({ x, y, n }) => [x / n, y / n]);
  spots.forEach((spot, label) => {
    const near = ([x, y]) => Math.hypot(spot[0] - x, spot[1] - y) < 12;
    if (spots.filter(near).length === 1) write(ctx, names[label], spot, font); // it stands alone
  });
}

/**
 * One curve for the batches and one for the held-out images, over the steps.
 * @param {HTMLCanvasElement} canvas @param {any[]} history of lab.js @param {string} name
 */
export function drawCurve(canvas, history, name) {
  const ctx = fitCanvas(canvas);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const last = history.at(-1)?.step;
  const values = history // those of the first steps would flatten the rest
    .filter(({ step }) => step >= Math.min(100, last / 3))
    .flatMap(({ train, held }) => [train[name], held[name]])
    .filter(Number.isFinite);
  if (!values.length) return;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const scale = (height - 8) / Math.max(high - low, 0.02 * high, 0.1);
  for (const [kind, hue] of [
    ["train", "--muted"],
    ["held", "--accent"],
  ]) {
    Object.assign(ctx, { strokeStyle: color(hue), lineWidth: kind === "held" ? 2 : 1 });
    ctx.beginPath();
    for (const point of history) {
      ctx.lineTo((point.step / last) * width, height - 4 - scale * (point[kind][name] - low));
    }
    ctx.stroke();
  }
  const text = (v) => v.toFixed(high < 10 ? 1 : 0);
  write(ctx, text(high), [width - 4, 10], "11px", "right");
  write(ctx, text(low), [width - 4, height - 8], "11px", "right");
}
