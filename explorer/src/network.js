// The trained networks: unpacking them, running them, and what an image costs them.

const sigmoid = (a) => 1 / (1 + Math.exp(-a));

/** Abramowitz and Stegun 7.1.26, error below 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const powers = [0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429];
  const sum = powers.reduceRight((rest, power) => t * (power + rest), 0);
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const activations = {
  none: (a) => a,
  relu: (a) => Math.max(0, a),
  silu: (a) => a * sigmoid(a),
  gelu: (a) => (a * (1 + erf(a / Math.SQRT2))) / 2,
};

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
 * A layer h = f(W x + b), or x + f(W x + b) where it is residual. W travels as bytes, each row with
 * a scale of its own.
 */
function unpackLayer([rows, cols, name, residual], read) {
  const [scales, b, bytes] = [
    read(Float32Array, rows),
    read(Float32Array, rows),
    read(Int8Array, rows * cols),
  ];
  const W = Float32Array.from(bytes, (q, k) => q * scales[Math.floor(k / cols)]);
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
 */
export function unpackModel({ encoder, decoder }, read) {
  const [E, D] = [encoder, decoder].map((layers) =>
    layers.map((sizes) => unpackLayer(sizes, read)),
  );
  const d = D[0].cols;
  return {
    d,
    encode(pixels) {
      const heads = forward(E, pixels); // mu, then log σ²
      return {
        mu: [...heads.subarray(0, d)],
        sigma: [...heads.subarray(d)].map((s) => Math.exp(s / 2)),
      };
    },
    decode: (z) => forward(D, z).map(sigmoid),
  };
}

/** −log p(x | z), the cross-entropy of x and its picture y: summed over pixels, in nats. */
export function crossEntropy(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const p = Math.min(1 - 1e-7, Math.max(1e-7, y[i]));
    sum -= x[i] * Math.log(p) + (1 - x[i]) * Math.log(1 - p);
  }
  return sum;
}

/** KL(q(z | x) ‖ N(0, I)) of each dimension, in nats. */
export const kl = ({ mu, sigma }) =>
  mu.map((m, k) => (m * m + sigma[k] ** 2 - 1 - 2 * Math.log(sigma[k])) / 2);

/** A number drawn from N(0, 1), by Box and Muller. */
export const normal = () =>
  Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
