// What the explorer and the lab share: elements, numbers, drawing, and being a good page in a frame.

/** The element with an id, of whatever kind. @type {(id: string) => any} */
export const $ = (id) => document.getElementById(id);

/** Bytes from base64. @param {string} text */
export const unbase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Bytes that were compressed by gzip. @param {BlobPart} bytes */
export async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * 1.2 as "1.20", with a true minus sign, none before 0; what is too long for a line as 1.2e+9.
 * @param {number} v
 */
export function number(v, digits = 2) {
  const text = Math.abs(v) < 1e6 ? v.toFixed(digits) : v.toExponential(1);
  return text.replace(/^-(?=[0.]+$)/, "").replace("-", "−");
}

export const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

/** Sets the texts of elements, by their ids. @param {Record<string, string | number>} texts */
export function setTexts(texts) {
  for (const [id, text] of Object.entries(texts)) $(id).textContent = text;
}

/**
 * Marks one button of a group as pressed, or none.
 * @param {Element} group @param {Element | null} pressed
 */
export function markPressed(group, pressed) {
  for (const button of group.children) button.ariaPressed = String(button === pressed);
}

/**
 * The direction of an arrow key, [right, up]; undefined for other keys.
 * @param {KeyboardEvent} event @returns {number[] | undefined}
 */
export function arrowOf(event) {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  return event.ctrlKey || event.altKey || event.metaKey ? undefined : arrows[event.key];
}

/** The value of a colour of style.css, such as "--ink". @param {string} name */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
export const dark = () => matchMedia("(prefers-color-scheme: dark)");

/**
 * A cleared context that draws in CSS pixels, as sharp as the screen is.
 * @param {HTMLCanvasElement} canvas
 */
export function fitCanvas(canvas) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio); // which clears it
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const ctx = canvas.getContext("2d");
  ctx.scale(ratio, ratio);
  return ctx;
}

/**
 * Pictures of 28 × 28 pixels, bytes or values in [0, 1], as tiles in a canvas: white on black, or in
 * the grey `ink`, as much of it as lets the ground through.
 * @param {HTMLCanvasElement | OffscreenCanvas} canvas @param {Uint8Array | Float32Array} pixels
 * @param {number | null} ink
 */
export function showPixels(canvas, pixels, columns = 1, ink = null) {
  const image = new ImageData(28 * columns, pixels.length / (28 * columns));
  const colors = new Uint32Array(image.data.buffer); // a pixel each: alpha, then its three greys
  const unit = pixels instanceof Uint8Array ? 1 : 255;
  for (let i = 0; i < pixels.length; i++) {
    const tile = Math.floor(i / 784);
    const x = 28 * (tile % columns) + (i % 28);
    const y = 28 * Math.floor(tile / columns) + (Math.floor(i / 28) % 28);
    const v = Math.round(unit * pixels[i]);
    const [grey, alpha] = ink === null ? [v, 255] : [ink, 0.42 * v];
    colors[28 * columns * y + x] = (alpha << 24) | (0x10101 * grey);
  }
  Object.assign(canvas, { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/**
 * Text with a rim of paper, to be read on dots, lines and pictures.
 * @param {CanvasRenderingContext2D} ctx @param {string} text @param {number[]} place in CSS pixels
 * @param {CanvasTextAlign} textAlign
 */
export function write(ctx, text, [x, y], font = "12px", textAlign = "center") {
  Object.assign(ctx, { font: `${font} system-ui, sans-serif`, textAlign, textBaseline: "middle" });
  Object.assign(ctx, { lineJoin: "round", lineWidth: 4, strokeStyle: color("--paper") });
  ctx.strokeText(text, x, y);
  ctx.fillStyle = color("--ink");
  ctx.fillText(text, x, y);
}

/**
 * @param {CanvasRenderingContext2D} ctx @param {number[]} place in CSS pixels
 * @param {number} radius @param {string} fill @param {string} rim colours
 */
export function disc(ctx, [x, y], radius, fill, rim = "transparent") {
  Object.assign(ctx, { fillStyle: fill, strokeStyle: rim, lineWidth: 1.5 });
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.fill();
  ctx.stroke();
}

let waiting = 0;
/** Tells a screen reader, once things have come to rest. @param {string} text */
export function say(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => setTexts({ status: text }), 400);
}

/**
 * In a frame, the page around needs to know how tall this one is: set it where that is allowed, else
 * send a message. Alone, it has a link back to the course.
 */
export function fitFrame() {
  $("home").hidden = window !== parent;
  if (window === parent) return;
  document.documentElement.style.scrollbarWidth = "none"; // a scrollbar would change the width
  new ResizeObserver(() => {
    const height = Math.ceil($("main").getBoundingClientRect().height);
    /** null where the page around was loaded from elsewhere @type {any} */
    const frame = window.frameElement;
    if (frame) frame.style.height = `${height + frame.offsetHeight - frame.clientHeight}px`;
    parent.postMessage({ frameHeight: height }, "*");
  }).observe($("main"));
}

/**
 * Spreads work over frames. The function that it returns takes a list of things to do, in place of
 * what is left of the last one: in each frame `work` is done with as many as 8 ms allow, then `shown`.
 * @param {(thing: any) => void} work @returns {(things: any[]) => void}
 */
export function inSlices(work, shown = () => {}) {
  let [list, waiting] = [[], false];
  function ask(things) {
    list = things;
    if (!waiting) requestAnimationFrame(go);
    waiting = true;
  }
  function go() {
    waiting = false;
    const end = performance.now() + 8;
    while (list.length && performance.now() < end) work(list.shift());
    shown();
    if (list.length) ask(list);
  }
  return ask;
}
