// The trained networks: unpacking them, running them, and what an image costs them.

import { clamp } from "./shared.js";

const sigmoid = (a) => 1 / (1 + Math.exp(-a));
const activations = {
  none: (a) => a,
  relu: (a) => Math.max(0, a),
  silu: (a) => a * sigmoid(a),
  gelu: (a) => a * sigmoid(1.5957691 * (a + 0.044715 * a ** 3)), // to three digits
};

/**
 * @typedef {{mu: number[], sigma: number[]}} Code q(z | x) = N(mu, sigma²)
 * @typedef {ReturnType<typeof unpackModel>} Model
 */

/**
 * Hands out the arrays that lie in `bytes` one after the other: read(Float32Array, 10), and so on.
 * @param {Uint8Array} bytes
 */
export function reader(bytes) {
  let offset = 0;
  return (Type, n) => {
    const part = bytes.slice(offset, (offset += n * Type.BYTES_PER_ELEMENT)); // a copy is aligned
    return new Type(part.buffer);
  };
}

/**
 * A layer h = f(W x + b), or x + f(W x + b) where it is residual. W travels as bytes; each row has a
 * scale of its own, and each group of its columns a share of it, in 255ths.
 * @param {any[]} header as explorer.py packs it @param {ReturnType<typeof reader>} read
 */
function unpackLayer([rows, cols, group, name, residual], read) {
  const [scales, b] = [read(Float32Array, rows), read(Float32Array, rows)];
  const groups = Math.ceil(cols / group);
  const shares = read(Uint8Array, rows * groups);
  const W = Float32Array.from(read(Int8Array, rows * cols), (q, k) => {
    const row = Math.floor(k / cols);
    return (q * scales[row] * shares[row * groups + Math.floor((k % cols) / group)]) / 255;
  });
  return { rows, cols, W, b, f: activations[name], residual };
}

function forward(layers, x) {
  for (const { rows, cols, W, b, f, residual } of layers) {
    const h = new Float32Array(rows);
    for (let i = 0, k = 0; i < rows; i++) {
      let sum = b[i];
      for (let j = 0; j < cols; j++, k++) sum += W[k] * x[j];
      h[i] = f(sum) + (residual ? x[i] : 0);
    }
    x = h;
  }
  return x;
}

/**
 * The two networks of a VAE with d latent dimensions.
 * encode: 784 values in [0, 1] to the mean and the standard deviation of q(z | x), d numbers each;
 * decode: d numbers to 784 grey values in [0, 1].
 * @param {{encoder: any[][], decoder: any[][]}} header @param {ReturnType<typeof reader>} read
 */
export function unpackModel({ encoder, decoder }, read) {
  const [E, D] = [encoder, decoder].map((net) => net.map((layer) => unpackLayer(layer, read)));
  const d = D[0].cols;
  /** @type {(pixels: Float32Array) => Code} */
  const encode = (pixels) => {
    const heads = [...forward(E, pixels)]; // μ, then log σ²: finite, however strange the image
    const sigma = heads.slice(d).map((s) => Math.exp(clamp(s, -20, 20) / 2));
    return { mu: heads.slice(0, d), sigma };
  };
  /** @type {(z: number[]) => Float32Array} */
  const decode = (z) => forward(D, z).map(sigmoid);
  return { d, encode, decode };
}

/**
 * −log p(x | z), the cross-entropy of x and its picture y: summed over pixels, in nats.
 * @param {Float32Array} x @param {Float32Array} y
 */
export function crossEntropy(x, y) {
  return x.reduce((sum, v, i) => {
    const p = clamp(y[i], 1e-7, 1 - 1e-7);
    return sum - v * Math.log(p) - (1 - v) * Math.log(1 - p);
  }, 0);
}

/** KL(q(z | x) ‖ N(0, I)), in nats. @param {Code} code */
export const kl = ({ mu, sigma }) =>
  mu.reduce((sum, m, k) => sum + (m * m + sigma[k] ** 2 - 1 - 2 * Math.log(sigma[k])) / 2, 0);

/** A number drawn from N(0, 1), by Box and Muller. */
export const normal = () =>
  Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
