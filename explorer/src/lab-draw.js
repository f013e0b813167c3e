// The pictures of the lab: the map, rows of images, the curves.

import { GRID, HELD_OUT } from "./lab-settings.js";
import { color, fitCanvas } from "./shared.js";

/**
 * Pictures (values 0 to 255) as tiles of 28 × 28 pixels in a canvas: white on black, or in one grey
 * that lets the ground through.
 */
function drawTiles(canvas, pictures, columns, rows, grey) {
  const image = new ImageData(28 * columns, 28 * rows);
  const { data } = image;
  for (let k = 0; k < 784 * columns * rows; k++) {
    const tile = Math.floor(k / 784);
    const x = 28 * (tile % columns) + (k % 28);
    const y = 28 * Math.floor(tile / columns) + (Math.floor(k / 28) % 28);
    const at = 4 * (28 * columns * y + x);
    data[at] = data[at + 1] = data[at + 2] = grey ?? pictures[k];
    data[at + 3] = grey === undefined ? 255 : 0.42 * pictures[k];
  }
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export const drawRow = (canvas, pictures) => drawTiles(canvas, pictures, pictures.length / 784, 1);

/** Text with a rim of paper, to be read on dots and lines. */
function write(ctx, text, x, y) {
  Object.assign(ctx, { textBaseline: "middle", lineJoin: "round", lineWidth: 4 });
  ctx.strokeStyle = color("--paper");
  ctx.strokeText(text, x, y);
  ctx.fillStyle = color("--ink");
  ctx.fillText(text, x, y);
}

const mosaic = document.createElement("canvas");

/** The codes before the decoded plane; with a snapshot before, lines show how each code moved. */
export function drawMap(canvas, { snapshot, before, labels, names, colors, showLabels }) {
  const ctx = fitCanvas(canvas);
  const [side, { reach, d }] = [canvas.clientWidth, snapshot];
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  drawTiles(mosaic, snapshot.mosaic, GRID, GRID, dark ? 235 : 25);
  ctx.drawImage(mosaic, 0, 0, side, side);

  /** Where code i is, in pixels. Codes of one dimension lie in a band for each class, or anywhere. */
  const place = ({ codes, view }, i) => {
    let [x, y] = [0, 0];
    for (let k = 0; k < d; k++) {
      x += codes[i * d + k] * view.u[k];
      y += codes[i * d + k] * view.v[k];
    }
    const scatter = (i * 0.618034) % 1; // even, and the same each time
    if (d === 1)
      y = reach * (showLabels ? 1 - (labels[i] + 0.2 + 0.6 * scatter) / 5 : 2 * scatter - 1);
    return [(side * (1 + x / reach)) / 2, (side * (1 - y / reach)) / 2];
  };
  const plain = color("--muted");
  const middles = names.map(() => ({ x: 0, y: 0, n: 0 }));
  const disc = (x, y, radius) => {
    ctx.beginPath();
    ctx.arc(x, y, radius, 0, 7);
  };
  Object.assign(ctx, { globalAlpha: 0.9, lineWidth: 1 });
  for (let i = 0; i < HELD_OUT; i++) {
    const [x, y] = place(snapshot, i);
    ctx.fillStyle = ctx.strokeStyle = showLabels ? colors[labels[i]] : plain;
    if (before) {
      ctx.beginPath();
      ctx.moveTo(...place(before, i));
      ctx.lineTo(x, y);
      ctx.stroke();
    }
    disc(x, y, side > 400 ? 2.6 : 2.2);
    ctx.fill();
    const middle = middles[labels[i]];
    Object.assign(middle, { x: middle.x + x, y: middle.y + y, n: middle.n + 1 });
  }
  ctx.globalAlpha = 1;
  ctx.strokeStyle = color("--ink");
  ctx.setLineDash([4, 4]);
  ctx.lineWidth = 1.5;
  for (const radius of d === 1 ? [] : [1, 2]) {
    disc(side / 2, side / 2, (side * radius) / (2 * reach)); // standard deviations of the prior
    ctx.stroke();
  }
  ctx.setLineDash([]);
  ctx.textAlign = "center";
  ctx.font = `650 ${names[0].length > 1 ? 12 : 16}px system-ui, sans-serif`;
  if (showLabels) middles.forEach(({ x, y, n }, label) => write(ctx, names[label], x / n, y / n));
}

/** One curve for the batches and one for the held-out images, over the steps. */
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
  for (const kind of ["train", "held"]) {
    ctx.strokeStyle = color(kind === "held" ? "--accent" : "--muted");
    ctx.lineWidth = kind === "held" ? 2 : 1;
    ctx.beginPath();
    for (const point of history) {
      ctx.lineTo((point.step / last) * width, height - 4 - scale * (point[kind][name] - low));
    }
    ctx.stroke();
  }
  ctx.font = "11px system-ui, sans-serif";
  ctx.textAlign = "right";
  write(ctx, high.toFixed(high < 10 ? 1 : 0), width - 4, 10);
  write(ctx, low.toFixed(high < 10 ? 1 : 0), width - 4, height - 8);
}
