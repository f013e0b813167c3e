// The pad: an image to look at, a place to draw on, and the door for pictures of one's own.

import { $, arrowOf, clamp, fitCanvas, inSlices, say, showPixels } from "./shared.js";
import { asMnist, inkOf } from "./picture.js";

const PEN = 2.6; // width of a stroke in pixels of 28
const SIDE = 280; // of the sheets on which drawings and pictures are made smaller

function trace(ctx, strokes, lineWidth) {
  const round = { lineCap: "round", lineJoin: "round" };
  Object.assign(ctx, { ...round, lineWidth, strokeStyle: "#fff" });
  for (const stroke of strokes) {
    ctx.beginPath();
    for (const [x, y] of stroke) ctx.lineTo(x, y);
    ctx.lineTo(stroke.at(-1)[0] + 0.01, stroke.at(-1)[1]); // a dot is a line too
    ctx.stroke();
  }
}

/**
 * One value for each pixel of what `draw` draws on a black sheet.
 * @param {(ctx: OffscreenCanvasRenderingContext2D) => void} draw
 */
function sheet(draw) {
  const ctx = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  ctx.fillRect(0, 0, SIDE, SIDE);
  draw(ctx);
  const rgba = ctx.getImageData(0, 0, SIDE, SIDE).data;
  const light = (i) => (0.3 * rgba[i] + 0.59 * rgba[i + 1] + 0.11 * rgba[i + 2]) / 255;
  return Float32Array.from({ length: SIDE * SIDE }, (_, i) => light(4 * i));
}

/**
 * Strokes as an image. The pen is as wide after scaling as MNIST's pens are, in drawings of any size.
 * @param {number[][][]} strokes points (x, y) in pixels of 28
 */
function drawingToImage(strokes) {
  const spans = [0, 1].map((k) => {
    const values = strokes.flat().map((p) => p[k]);
    return Math.max(...values) - Math.min(...values);
  });
  const width = Math.max(0.5, (PEN * Math.max(...spans)) / (20 - PEN));
  const ink = sheet((ctx) => {
    ctx.scale(SIDE / 28, SIDE / 28);
    trace(ctx, strokes, width);
  });
  return asMnist(ink, SIDE);
}

/**
 * A file as an image: the square in its middle, as ink on black. null where it is all one grey.
 * @param {File} file
 */
async function fileToImage(file) {
  const bitmap = await createImageBitmap(file);
  const cut = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - cut) / 2, (bitmap.height - cut) / 2];
  const grey = sheet((ctx) => {
    ctx.fillStyle = "#fff"; // where the picture is transparent
    ctx.fillRect(0, 0, SIDE, SIDE);
    ctx.imageSmoothingQuality = "high";
    ctx.drawImage(bitmap, left, top, cut, cut, 0, 0, SIDE, SIDE);
  });
  return asMnist(inkOf(grey), SIDE);
}

/**
 * The pad over #pad. `changed(pixels, name)` gets each new image, null for an empty pad.
 * Returns show(pixels, name), which puts an image on it.
 * @param {(pixels: Float32Array | null, name: string) => void} changed
 */
export function makePad(changed) {
  const pad = $("pad");
  const pen = { at: [14, 14], down: false, shown: false };
  let [strokes, image, stroking] = [[], null, false];

  function draw() {
    const ctx = fitCanvas(pad);
    ctx.scale(pad.clientWidth / 28, pad.clientWidth / 28);
    ctx.imageSmoothingEnabled = false;
    if (image) ctx.drawImage($("seen"), 0, 0, 28, 28);
    trace(ctx, strokes, PEN);
    $("seen").hidden = !strokes.length;
    if (!pen.shown) return;
    ctx.beginPath();
    ctx.arc(pen.at[0], pen.at[1], pen.down ? 0.9 : 1.4, 0, 7);
    Object.assign(ctx, { lineWidth: 0.4, strokeStyle: "#ffa90e" });
    ctx.stroke();
  }
  function show(pixels, name) {
    [strokes, image, pen.down] = [[], pixels, false];
    if (pixels) showPixels($("seen"), pixels);
    draw();
    changed(pixels, name);
  }
  const askImage = inSlices(() => {
    if (!strokes.length) return;
    const pixels = drawingToImage(strokes);
    showPixels($("seen"), pixels);
    draw();
    changed(pixels, "your drawing");
  });
  function add(point, begins) {
    image = null;
    if (begins) strokes.push([point]);
    else strokes.at(-1).push(point);
    askImage(["once a frame"]);
  }

  const at = (event) => [event.offsetX, event.offsetY].map((v) => (28 * v) / pad.clientWidth);
  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    stroking = true;
    pen.shown = pen.down = false;
    add(at(event), true);
  };
  pad.onpointermove = (event) => stroking && add(at(event), false);
  pad.onpointerup = pad.onpointercancel = () => (stroking = false);
  pad.onkeydown = (event) => {
    const move = arrowOf(event);
    if (!move && event.key !== " ") return;
    event.preventDefault();
    pen.shown = true;
    if (move) pen.at = [pen.at[0] + move[0], pen.at[1] - move[1]].map((v) => clamp(v, 2, 26));
    else pen.down = !pen.down;
    if (pen.down) add(pen.at, !move);
    else draw();
    if (!pen.down) say(`Pen at ${pen.at[0]}, ${pen.at[1]} of 28, lifted.`);
  };
  pad.onblur = () => {
    pen.shown = pen.down = false;
    draw();
  };
  $("clear").onclick = () => show(null, "empty: draw here");
  $("save").onclick = () => {
    if (!image && !strokes.length) return say("The pad is empty.");
    const href = $("seen").toDataURL(); // 28 × 28, as the encoder gets it
    Object.assign(document.createElement("a"), { href, download: "drawing.png" }).click();
  };

  async function take(file) {
    if (!file) return;
    const pixels = await fileToImage(file).catch(() => null);
    show(pixels, pixels ? "your picture, cut and centred" : `no picture was found in ${file.name}`);
    say($("image-name").textContent);
  }
  $("file").onchange = ({ target }) => {
    take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  };
  document.ondragover =
    document.ondragleave =
    document.ondrop =
      (event) => {
        event.preventDefault();
        document.body.classList.toggle("dropping", event.type === "dragover");
        if (event.type === "drop") take(event.dataTransfer.files[0]);
      };
  return { show, draw };
}
