// Unit tests of the explorer's modules that need no page: cd explorer && node --test

import assert from "node:assert/strict";
import { test } from "node:test";
import { crossEntropy, kl, reader, unpackModel } from "../src/network.js";
import { asMnist, inkOf } from "../src/picture.js";
import { between, nearest, readAddress, writeAddress } from "../src/places.js";

const close = (a, b, tolerance = 1e-5) =>
  [...a].forEach((v, i) => assert.ok(Math.abs(v - b[i]) <= tolerance, `${[...a]} and ${[...b]}`));

/** Bytes of arrays, one after the other. */
const pack = (...arrays) => new Uint8Array(arrays.flatMap((a) => [...new Uint8Array(a.buffer)]));

test("arrays are read one after the other, aligned or not", () => {
  const read = reader(pack(new Int8Array([-3, 4, 5]), new Float32Array([1.5, -2])));
  assert.deepEqual([...read(Int8Array, 3)], [-3, 4, 5]);
  assert.deepEqual([...read(Float32Array, 2)], [1.5, -2]);
});

test("a network of two layers, one of them residual, by hand", () => {
  const layer = (scales, b, W, shares = scales.map(() => 255)) => [
    ...[new Float32Array(scales), new Float32Array(b), new Uint8Array(shares), new Int8Array(W)],
  ];
  const header = {
    encoder: [[4, 3, 3, "none", false]], // mu and log σ² of a plane
    decoder: [
      [2, 2, 2, "relu", true],
      [1, 2, 1, "none", false], // a scale for each column
    ],
  };
  const bytes = pack(
    ...layer([1, 0.5, 1, 1], [0, 0, 0, 1], [1, 2, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
    ...layer([1, 1], [0, -9], [1, 1, 1, 1]),
    ...layer([1.25], [0.5], [4, -2], [51, 102]), // 1.25 / 5 · 4 and 1.25 · 2 / 5 · (−2)
  );
  const model = unpackModel(header, reader(bytes));
  assert.equal(model.d, 2);
  const { mu, sigma } = model.encode([1, 0, 1]);
  close(mu, [4, 1]);
  close(sigma, [1, Math.exp(0.5)]);
  // z = (1, 2): relu((3, −6)) + z = (4, 2); 4 − 2 + 0.5 = 2.5
  close(model.decode([1, 2]), [1 / (1 + Math.exp(-2.5))]);
});

test("what an image costs", () => {
  assert.ok(Math.abs(crossEntropy([1, 0, 0.5], [0.5, 0.5, 0.5]) - 3 * Math.LN2) < 1e-9);
  assert.ok(Number.isFinite(crossEntropy([1], [0])));
  close([kl({ mu: [0, 1], sigma: [1, 2] })], [(1 + 4 - 1 - 2 * Math.LN2) / 2]);
});

test("the way from A to B", () => {
  close(between([0, 2], [4, 0], 0.25, false), [1, 1.5]);
  const middle = between([2, 0], [0, 2], 0.5, true);
  close(middle, [Math.SQRT2, Math.SQRT2]); // as long as its ends
  for (const t of [0, 1]) close(between([1, 2], [-2, 1], t, true), t ? [-2, 1] : [1, 2]);
  close(between([1, 0], [-1, 0], 0.5, true), [0, 0]); // opposite: the line
  close(between([0, 0], [2, 0], 0.5, true), [1, 0]); // the middle has no direction
  close(between([1, 1], [1, 1], 0.5, true), [1, 1], 0.02); // no way at all
});

test("the nearest code", () => {
  assert.equal(nearest(Float32Array.of(0, 0, 5, 5, 1, 1), [2, 2]), 2);
});

test("places in the address", () => {
  const models = [
    { d: 2, codes: Float32Array.of(0, 0, 5, 5, 1, 1) },
    { d: 3, codes: new Float32Array(9) },
  ];
  const read = (hash) => readAddress(hash, models, models[0]);
  const full = read("#model=2&image=1&z=0.50,-1.20&a=image1&b=2,1&way=arc");
  assert.deepEqual(full, {
    model: models[0],
    image: 1,
    z: [0.5, -1.2],
    a: [5, 5],
    b: [2, 1],
    arc: true,
  });
  assert.equal(read("#model=3&z=1,2,3").model, models[1]);
  for (const nonsense of [
    "",
    "#",
    "#z=1",
    "#z=1,2,3",
    "#z=,",
    "#z=image9",
    "#model=7",
    "#image=-1",
  ]) {
    const { model, image, z } = read(nonsense);
    assert.deepEqual([model, image, z], [models[0], undefined, undefined]);
  }
  const text = writeAddress({ model: 2, image: undefined, z: [0.5, -1.2], way: "arc" });
  assert.equal(text, "#model=2&z=0.50,-1.20&way=arc");
  assert.deepEqual(read(text).z, [0.5, -1.2]);
});

/** A picture of side × side: ground, with a bar of ink. */
function bar(side, ground, ink) {
  return Float32Array.from({ length: side * side }, (_, i) => {
    const [x, y] = [i % side, Math.floor(i / side)];
    return x >= 10 && x < 20 && y >= 30 && y < 90 ? ink : ground;
  });
}

test("a picture is inverted if it is dark on light", () => {
  for (const [ground, ink] of [
    [0.9, 0.2],
    [0.1, 0.8],
    [40, 200],
  ]) {
    const found = inkOf(bar(100, ground, ink));
    close([found[0], found[100 * 50 + 15]], [0, 1]);
  }
  assert.equal(Math.max(...inkOf(new Float32Array(100).fill(0.5))), 0); // all one grey
});

test("ink is scaled into 20 × 20 pixels, with its centre of mass in the middle", () => {
  const image = asMnist(bar(100, 0, 1), 100);
  const rows = [...Array(28).keys()].filter(
    (y) => Math.max(...image.subarray(28 * y, 28 * y + 28)) > 0.25,
  );
  assert.equal(rows.length, 20);
  let [mass, x, y] = [0, 0, 0];
  image.forEach(
    (v, i) => ([mass, x, y] = [mass + v, x + v * (i % 28), y + v * Math.floor(i / 28)]),
  );
  close([x / mass, y / mass], [14, 14], 0.5);
  assert.equal(asMnist(new Float32Array(100), 10), null);
});
