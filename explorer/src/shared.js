// What the explorer and the lab share: elements, numbers, pixels, and being a good page in a frame.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** Bytes from base64. */
export const unbase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** Bytes that were compressed by gzip. */
export async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** 1.2 as "1.20", with a true minus sign where it is negative. */
export const number = (v, digits = 2) => v.toFixed(digits).replace("-", "−");

export const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

/** The value of a colour of style.css, such as "--ink". */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

/** A cleared context that draws in CSS pixels, as sharp as the screen is. */
export function fitCanvas(canvas) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((v) =>
    Math.round(v * ratio),
  );
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

/** 784 values in [0, 1] from `start` on, white on black, in a canvas of 28 × 28 pixels. */
export function showPixels(canvas, pixels, start = 0) {
  const image = new ImageData(28, 28);
  for (let i = 0; i < 784; i++) {
    image.data.fill(Math.round(255 * pixels[start + i]), 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

let waiting = 0;
/** Tells a screen reader, once things have come to rest. */
export function say(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => ($("status").textContent = text), 400);
}

/** A frame cannot see how tall its page is: set it where that is allowed, else send a message. */
export function tellHeight(main) {
  if (window === parent) return;
  document.documentElement.style.scrollbarWidth = "none"; // a scrollbar would change the width
  new ResizeObserver(() => {
    const height = Math.ceil(main.getBoundingClientRect().height);
    const frame = window.frameElement; // null where the page around was loaded from elsewhere
    if (frame) frame.style.height = `${height + frame.offsetHeight - frame.clientHeight}px`;
    parent.postMessage({ frameHeight: height }, "*");
  }).observe(main);
}

/** The way back to the pages; a page in a frame is on one of them, or in a notebook. */
export function homeLink() {
  $("home").hidden = window !== parent || !location.protocol.match(/^(file|https?):$/);
}

/**
 * Spreads work over frames; the function that it returns asks for it. In each frame the job is done
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
