// Run by node's own runner: cd explorer && node --test

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { HELD_OUT, STANDARD, inForce } from "../src/lab-settings.js";
import { measure } from "../src/lab-measures.js";
import { BATCH, PIXELS, VAE, makeKernel, makeRandom } from "../src/nn.js";
import { makeTrainer } from "../src/worker.js";

const wasm = readFileSync(new URL("../src/nn.wasm", import.meta.url));
const objective = { beta: 3, noise: true, scale: 1 };

/** A network with a batch of blobs, a different one for each seed. */
function network(bytes, d = 2, seed = 1) {
  const random = makeRandom(seed);
  const vae = new VAE(makeKernel(bytes), d, random);
  for (let k = 0; k < vae.x.length; k++) vae.x[k] = Math.max(0, random.normal());
  vae.x.forEach((v, k) => (vae.x[k] = Math.min(v, 1)));
  vae.eps.forEach((_, k) => (vae.eps[k] = random.normal()));
  return vae;
}

/** Images of ten classes, two pixels to a byte: a bright bar in a place of its own, and some dust. */
function bars(count, seed = 3) {
  const random = makeRandom(seed);
  const images = new Uint8Array((count * PIXELS) / 2).map(() => (random.uniform() < 0.04 ? 6 : 0));
  for (let n = 0; n < count; n++) {
    const at = (n * PIXELS) / 2 + 28 * (n % 10);
    images.fill(0xff, at, at + 28);
  }
  return images;
}
const labels = Array.from({ length: HELD_OUT }, (_, n) => n % 10);

/** Snapshots of a run to its end. */
function train(settings, steps, bytes = wasm) {
  return new Promise((resolve) => {
    const snapshots = [];
    const trainer = makeTrainer((snapshot) => {
      snapshots.push(snapshot);
      if (snapshot.step && !snapshot.running) resolve(snapshots);
    }, bytes);
    trainer({ packed: bars(HELD_OUT + 640), name: "digits" });
    const view = { u: [1, 0, 0], v: [0, 1, 0] };
    trainer({ start: { ...STANDARD, ...settings }, id: 1, view, run: steps, pace: Infinity });
  });
}

test("random numbers repeat with the seed, and are uniform and normal", () => {
  const draw = (seed) => Array.from({ length: 4 }, makeRandom(seed).normal);
  assert.deepEqual(draw(5), draw(5));
  assert.notDeepEqual(draw(5), draw(6));
  const normal = Array.from({ length: 20000 }, makeRandom(1).normal);
  const mean = normal.reduce((a, b) => a + b) / 20000;
  const variance = normal.reduce((a, b) => a + b * b, 0) / 20000;
  assert.ok(Math.abs(mean) < 0.03 && Math.abs(variance - 1) < 0.04);
});

for (const [name, bytes] of [
  ["WebAssembly", wasm],
  ["JavaScript", null],
]) {
  for (const d of [1, 2, 3]) {
    test(`${name}, ${d} dimensions: gradients are the slopes of the loss`, () => {
      const vae = network(bytes, d);
      assert.equal(vae.kernel.name, name);
      vae.loss(objective);
      for (const { W, dW, b, db } of vae.layers) {
        for (const [array, slopes] of [
          [W, dW],
          [b, db],
        ]) {
          const i = slopes.reduce(
            (best, g, k) => (Math.abs(g) > Math.abs(slopes[best]) ? k : best),
            0,
          );
          const [kept, slope, h] = [array[i], slopes[i], 2e-3];
          const ends = [1, -1].map((sign) => {
            array[i] = kept + sign * h;
            return vae.loss(objective, false).loss;
          });
          array[i] = kept;
          const measured = (ends[0] - ends[1]) / (2 * h);
          assert.ok(
            Math.abs(measured - slope) < 0.02 * Math.abs(slope) + 0.02,
            `${measured} ${slope}`,
          );
        }
      }
    });
  }
}

test("WebAssembly and plain loops train alike", () => {
  const [fast, plain] = [network(wasm), network(null)];
  for (let step = 0; step < 20; step++) {
    const [a, b] = [fast.loss(objective), plain.loss(objective)];
    assert.ok(Math.abs(a.loss - b.loss) < 1e-3 * a.loss, `step ${step}: ${a.loss} and ${b.loss}`);
    fast.update(1e-3);
    plain.update(1e-3);
  }
});

test("WebAssembly is at least four times as fast as plain loops", { skip: process.env.CI }, () => {
  const speed = (vae, steps) => {
    const begin = performance.now();
    for (let step = 0; step < steps; step++) {
      vae.loss(objective);
      vae.update(1e-3);
    }
    return (1000 * steps) / (performance.now() - begin);
  };
  const [fast, plain] = [network(wasm), network(null)];
  speed(fast, 20);
  speed(plain, 5);
  const ratios = [1, 2, 3].map(() => speed(fast, 60) / speed(plain, 6)); // side by side
  assert.ok(Math.max(...ratios) > 4, `${ratios}`);
});

test("settings in force: warm-up and one cycle", () => {
  const at = (change, step) => inForce({ ...STANDARD, rate: 1, ...change }, step);
  assert.deepEqual(at({}, 77), { beta: 1, rate: 1 });
  assert.equal(at({ beta: 4, warmUp: true }, 500).beta, 2);
  assert.equal(at({ beta: 4, warmUp: true }, 5000).beta, 4);
  const rates = [0, 200, 400, 1200, 1999].map((step) => at({ schedule: "one-cycle" }, step).rate);
  assert.ok(rates[0] < rates[1] && rates[1] < rates[2] && rates[2] === 1);
  assert.ok(rates[3] === 0.5 && rates[4] < 0.01);
});

test("measures know classes that are apart, and a heap", () => {
  const apart = Float32Array.from(
    { length: 2 * HELD_OUT },
    (_, k) => 3 * Math.cos(labels[k >> 1] + (k % 2)) + k * 1e-6,
  );
  assert.equal(measure({ codes: apart, d: 2 }, labels).same, 1);
  const random = makeRandom(2);
  const heap = measure({ codes: apart.map(random.normal), d: 2 }, labels);
  assert.ok(
    heap.same < 0.2 && Math.abs(heap.inside - 0.95) < 0.03 && Math.abs(heap.spread - 1) < 0.06,
  );
});

test("a run learns, repeats with its seed, and collapses with the mean over pixels", async () => {
  const [first, again, other] = await Promise.all([
    train({}, 150),
    train({}, 150),
    train({ seed: 2 }, 150),
  ]);
  const end = first.at(-1);
  assert.equal(end.step, 150);
  assert.ok(end.held.loss < 0.5 * 543 && measure(end, labels).same > 0.6);
  assert.deepEqual(end.codes, again.at(-1).codes);
  assert.notDeepEqual(end.codes, other.at(-1).codes);
  assert.ok((await train({ mean: true }, 300)).at(-1).held.kl < 0.1);
});

test("a loss that is no number stops the run", async () => {
  const snapshots = await train({ rate: 1e30 }, 300);
  assert.ok(snapshots.at(-1).step < 300 && !Number.isFinite(snapshots.at(-1).held.loss));
});

test("pictures and codes have one shape in one, two and three dimensions", async () => {
  for (const d of [1, 2, 3]) {
    const end = (await train({ d }, 3)).at(-1);
    assert.equal(end.codes.length, d * HELD_OUT);
    assert.deepEqual(
      [end.rebuilt, end.samples, end.mosaic].map((a) => a.length / PIXELS),
      [6, 6, 256],
    );
    assert.ok(BATCH % 8 === 0 && end.mosaic.some((v) => v > 0));
  }
});
