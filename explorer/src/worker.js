// The trainer: runs in a worker, so that the page stays smooth. It gets images, never labels.

import { BATCH, PIXELS, VAE, makeKernel, makeRandom } from "./nn.js";
import { GRID, HELD_OUT, SHOWN, inForce } from "./lab-settings.js";

/** Two pixels of 16 greys from each byte. @param {Uint8Array} bytes */
const unpack = (bytes) =>
  Uint8Array.from({ length: 2 * bytes.length }, (_, i) =>
    i % 2 ? bytes[i >> 1] & 15 : bytes[i >> 1] >> 4,
  );

/**
 * Loss, reconstruction and KL on average over batches; 0 for none.
 * @param {import("./lab-settings.js").Losses[]} results
 */
function mean(results) {
  const average = (name) => results.reduce((sum, result) => sum + result[name], 0) / results.length;
  return results.length && { loss: average("loss"), recon: average("recon"), kl: average("kl") };
}

/**
 * @param {(snapshot: import("./lab-settings.js").Snapshot) => void} post receives one after each
 *   stretch of steps
 * @param {Uint8Array<ArrayBuffer>} [wasm] bytes of nn.wasm
 * @returns {(message: any) => void} takes any of {packed, name}, {start: settings, id}, {settings},
 *   {view}, {run: steps}, {pace: steps a second}, {pause: true}
 */
export function makeTrainer(post, wasm) {
  const kernel = makeKernel(wasm);
  const data = {};
  let settings, id, vae, random, images, order, others, place; // of a run
  let view; // directions u and v of the map in the space of codes
  let [left, pace, timer, cost] = [0, Infinity, 0, 0];
  let results, since; // of the steps since the last snapshot

  function start(message) {
    ({ start: settings, id } = message);
    random = makeRandom(settings.seed);
    images = data[settings.dataset];
    vae = new VAE(kernel, settings.d, random);
    const numbers = Uint16Array.from({ length: images.length / PIXELS }, (_, i) => i);
    [order, others] = [numbers.slice(0, -HELD_OUT), numbers.slice(-HELD_OUT)];
    place = order.length;
    left = 0;
  }

  function clear() {
    results = [];
    since = performance.now();
  }

  /** Puts 64 images into the batch, and fresh noise beside them. */
  function load(numbers, noise) {
    numbers.forEach((number, b) => {
      for (let i = 0; i < PIXELS; i++) vae.x[i * BATCH + b] = images[PIXELS * number + i] / 15;
    });
    for (let k = 0; k < vae.eps.length; k++) vae.eps[k] = noise.normal();
  }

  function lossOf(gradients) {
    const { beta } = inForce(settings, vae.steps);
    const { noise, mean } = settings;
    return vae.loss({ beta, noise, scale: mean ? 1 / PIXELS : 1 }, gradients);
  }

  function step() {
    if (place + BATCH > order.length) {
      // A new epoch: shuffle.
      for (let i = order.length - 1; i > 0; i--) {
        const j = Math.floor((i + 1) * random.uniform());
        [order[i], order[j]] = [order[j], order[i]];
      }
      place = 0;
    }
    load(order.subarray(place, (place += BATCH)), random);
    const result = lossOf(true);
    vae.update(inForce(settings, vae.steps).rate);
    results.push(result);
    left = Number.isFinite(result.loss) ? left - 1 : 0; // a loss that is lost stays lost
  }

  /** Codes μ of all held-out images, one after the other, and their loss with noise that stays. */
  function heldOut(d) {
    const [codes, noise] = [new Float32Array(HELD_OUT * d), makeRandom(0)];
    const losses = [];
    for (let n = 0; n < HELD_OUT; n += BATCH) {
      load(others.subarray(n, n + BATCH), noise);
      losses.push(lossOf(false));
      for (let k = 0; k < d; k++) {
        for (let b = 0; b < BATCH; b++) codes[(n + b) * d + k] = vae.layers[1].y[k * BATCH + b];
      }
    }
    return { codes, held: mean(losses) };
  }

  /** Pictures, values 0 to 255, of as many codes; code(i, k) is number k of code i. */
  function decode(count, code) {
    const pictures = new Uint8Array(count * PIXELS);
    for (let n = 0; n < count; n += BATCH) {
      for (let k = 0; k < vae.z.length; k++) {
        vae.z[k] = code(Math.min(n + (k % BATCH), count - 1), Math.floor(k / BATCH));
      }
      const logits = vae.decode();
      for (let b = 0; b < Math.min(BATCH, count - n); b++) {
        for (let i = 0; i < PIXELS; i++) {
          pictures[(n + b) * PIXELS + i] = 255 / (1 + Math.exp(-logits[i * BATCH + b]));
        }
      }
    }
    return pictures;
  }

  function snapshot() {
    const { d } = settings;
    const [train, speed] = [mean(results), (1000 * results.length) / (performance.now() - since)];
    clear();
    const { codes, held } = heldOut(d);
    const sizes = codes.map(Math.abs).sort();
    const needed = 1.05 * sizes[Math.floor(0.95 * (sizes.length - 1))]; // a few may wander far off
    const reach = Math.max(3, Math.round(2 ** (Math.ceil(2 * Math.log2(needed)) / 2))) || 3; // seldom changes
    const at = (cell) => ((2 * cell + 1) / GRID - 1) * reach; // the middle of a cell
    const tile = (i, k) => at(i % GRID) * view.u[k] - at(Math.floor(i / GRID)) * view.v[k];
    const noise = Float32Array.from({ length: SHOWN * d }, makeRandom(7).normal);
    post({
      ...{ id, d, codes, train, held, reach, view, speed, running: left > 0, kernel: kernel.name },
      ...{ step: vae.steps, ...inForce(settings, vae.steps) },
      originals: images.slice(PIXELS * others[0], PIXELS * others[SHOWN]).map((grey) => 17 * grey),
      rebuilt: decode(SHOWN, (i, k) => codes[i * d + k]),
      samples: decode(SHOWN, (i, k) => noise[i * d + k]),
      mosaic: decode(GRID ** 2, tile),
    });
  }

  /** Some steps and a snapshot: short, so that messages are heard, but with more steps than snapshot. */
  function stretch() {
    const slow = pace < 60;
    const end = performance.now() + Math.min(Math.max(80, 4 * cost), 400);
    do step();
    while (left > 0 && !slow && performance.now() < end);
    const trained = performance.now();
    snapshot();
    cost = performance.now() - trained;
    timer = left > 0 ? setTimeout(stretch, slow ? 1000 / pace : 0) : 0;
  }

  return (message) => {
    if (message.packed) data[message.name] = unpack(message.packed);
    if (message.view) ({ view } = message);
    if (message.start) start(message);
    if (message.settings) Object.assign(settings, message.settings);
    if (message.pause) left = 0;
    if (message.run) left = message.run;
    if (message.pace) ({ pace } = message);
    if (!vae) return;
    clearTimeout(timer);
    clear();
    if (left > 0) timer = setTimeout(stretch, 0);
    else snapshot();
  };
}

if ("WorkerGlobalScope" in globalThis) {
  // The first message brings the kernel, all others are for the trainer.
  self.onmessage = ({ data: { wasm } }) => {
    const trainer = makeTrainer((snapshot) => self.postMessage(snapshot), wasm);
    self.onmessage = ({ data }) => trainer(data);
  };
}
