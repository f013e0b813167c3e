// A variational autoencoder 784-128-d-128-784, its loss, its gradients and Adam, in plain arrays.
//
// A batch is stored feature by feature: row i of an array of shape (features, BATCH) holds feature i
// of all images. A layer's weights W have PyTorch's shape (outputs, inputs). Three products train it:
//
//     forward  y  = W x + b          (out, B) = (out, in) (in, B)
//     back     dx = Wᵀ dy            (in, B)  = (in, out) (out, B)
//     weights  dW = dy xᵀ            (out, in) = (out, B) (B, in)

export const BATCH = 64;
export const PIXELS = 784;
export const HIDDEN = 128;

/** @typedef {ReturnType<typeof makeKernel>} Kernel @typedef {ReturnType<typeof makeRandom>} Random */

/**
 * C = A B with C (m, n) and B (k, n) row by row; A's element (i, p) is A[i * row + p * col].
 * With row and col exchanged, A is read as its transpose.
 */
function plainMatmul(C, A, B, m, n, k, row, col) {
  C.fill(0, 0, m * n);
  for (let i = 0; i < m; i++) {
    for (let p = 0; p < k; p++) {
      const a = A[i * row + p * col];
      for (let j = 0; j < n; j++) C[i * n + j] += a * B[p * n + j];
    }
  }
}

/** One step of Adam for all weights w; g: gradient, m and v: running means of g and g². */
function plainAdam(w, g, m, v, rate, fix) {
  for (let i = 0; i < w.length; i++) {
    m[i] = 0.9 * m[i] + 0.1 * g[i];
    v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
    w[i] -= (rate * m[i]) / (Math.sqrt(fix * v[i]) + 1e-8);
  }
}

/**
 * The two loops, by WebAssembly where the browser allows it, else as above; and memory for arrays.
 * @param {Uint8Array<ArrayBuffer>} [wasm] the bytes of nn.wasm
 */
export function makeKernel(wasm) {
  /** @type {any} */
  let exports;
  try {
    if (wasm) exports = new WebAssembly.Instance(new WebAssembly.Module(wasm)).exports;
  } catch {
    // An old browser, or a page that forbids WebAssembly: the plain loops do the same, slower.
  }
  const buffer = exports ? exports.memory.buffer : new ArrayBuffer(2 ** 23);
  const at = (array) => array.byteOffset;
  let used = 0;
  return {
    name: exports ? "WebAssembly" : "JavaScript",
    /** Takes all arrays back. */
    free: () => (used = 0),
    /** Zeros, at an address that is a multiple of 16. @param {number} length */
    floats(length) {
      const array = new Float32Array(buffer, used, length).fill(0);
      used += 16 * Math.ceil(length / 4);
      return array;
    },
    /** @type {(C: Float32Array, A: Float32Array, B: Float32Array, ...sizes: number[]) => void} */
    matmul(C, A, B, m, n, k, row, col) {
      if (!exports || m % 4 || n % 8) plainMatmul(C, A, B, m, n, k, row, col);
      else exports.matmul(at(C), at(A), at(B), m, n, k, 4 * row, 4 * col);
    },
    adam(w, g, m, v, rate, fix) {
      if (!exports) plainAdam(w, g, m, v, rate, fix);
      else exports.adam(at(w), at(g), at(m), at(v), w.length, rate, fix);
    },
  };
}

/**
 * Random numbers that a seed repeats (mulberry32): uniform in [0, 1), and normal (Box and Muller).
 * @param {number} seed
 */
export function makeRandom(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

/** Linear layer: W and b with their gradients dW and db, and its output y with dy for one batch. */
class Linear {
  /** @param {Kernel} kernel @param {number} inputs @param {number} outputs @param {Random} random */
  constructor(kernel, inputs, outputs, random) {
    this.kernel = kernel;
    this.inputs = inputs;
    this.outputs = outputs;
    const sizes = [inputs * outputs, outputs]; // of W and b: each has w, g, m, v of Adam
    this.parameters = sizes.map((size) => [0, 1, 2, 3].map(() => kernel.floats(size)));
    const start = () => (2 * random.uniform() - 1) / Math.sqrt(inputs); // as in PyTorch
    for (const [w] of this.parameters) w.set(w.map(start));
    const [W, b] = this.parameters;
    this.W = W[0];
    this.dW = W[1];
    this.b = b[0];
    this.db = b[1];
    this.y = kernel.floats(outputs * BATCH);
    this.dy = kernel.floats(outputs * BATCH);
    this.xT = kernel.floats(inputs * BATCH);
  }

  /** @param {Float32Array} x (inputs, BATCH) @param {boolean} [relu] */
  forward(x, relu) {
    const { W, b, y, inputs, outputs } = this;
    this.x = x;
    this.kernel.matmul(y, W, x, outputs, BATCH, inputs, inputs, 1);
    for (let i = 0, k = 0; i < outputs; i++) {
      for (let n = 0; n < BATCH; n++, k++) y[k] = relu ? Math.max(0, y[k] + b[i]) : y[k] + b[i];
    }
    return y;
  }

  /**
   * From dy: dW, db and, if wanted, dx. Where x is a ReLU's output 0, no gradient passes.
   * @param {Float32Array | null} dx @param {boolean} [relu]
   */
  backward(dx, relu) {
    const { W, dW, db, x, xT, dy, inputs, outputs } = this;
    for (let i = 0, k = 0; i < inputs; i++) {
      for (let n = 0; n < BATCH; n++, k++) xT[n * inputs + i] = x[k];
    }
    this.kernel.matmul(dW, dy, xT, outputs, inputs, BATCH, BATCH, 1);
    db.fill(0);
    for (let i = 0, k = 0; i < outputs; i++) {
      for (let n = 0; n < BATCH; n++, k++) db[i] += dy[k];
    }
    if (!dx) return;
    this.kernel.matmul(dx, W, dy, inputs, BATCH, outputs, 1, inputs);
    if (relu) for (let k = 0; k < dx.length; k++) if (x[k] === 0) dx[k] = 0;
  }
}

export class VAE {
  /** @param {Kernel} kernel @param {number} d size of the code @param {Random} random */
  constructor(kernel, d, random) {
    const sizes = [PIXELS, HIDDEN, 2 * d, d, HIDDEN, PIXELS]; // the heads are μ and log σ², z has size d
    kernel.free();
    this.kernel = kernel;
    this.steps = 0;
    this.z = kernel.floats(d * BATCH);
    this.dz = kernel.floats(d * BATCH);
    this.eps = kernel.floats(d * BATCH);
    this.x = kernel.floats(PIXELS * BATCH);
    this.layers = [0, 1, 3, 4].map((i) => new Linear(kernel, sizes[i], sizes[i + 1], random));
  }

  /** The batch in this.x to heads (2d, BATCH): rows of μ, then rows of log σ². */
  encode() {
    const [hidden, heads] = this.layers;
    return heads.forward(hidden.forward(this.x, true));
  }

  /** The codes in this.z to logits (PIXELS, BATCH). */
  decode() {
    const [, , hidden, out] = this.layers;
    return out.forward(hidden.forward(this.z, true));
  }

  /**
   * Loss of the batch in this.x with the noise in this.eps, in nats per image, and, if asked, the
   * gradients of  scale · reconstruction + β · KL.
   * @param {{beta: number, noise: boolean, scale: number}} objective
   * @returns {import("./lab-settings.js").Losses}
   */
  loss({ beta, noise, scale }, gradients = true) {
    const { x, z, eps, layers } = this;
    const heads = this.encode();
    const mu = heads.subarray(0, z.length);
    const logvar = heads.subarray(z.length);
    for (let k = 0; k < z.length; k++)
      z[k] = mu[k] + (noise ? Math.exp(logvar[k] / 2) * eps[k] : 0);
    const logits = this.decode();
    const { dy } = layers[3];
    let [recon, kl, product] = [0, 0, 1];
    for (let k = 0; k < logits.length; k++) {
      const e = Math.exp(-Math.abs(logits[k]));
      recon += Math.max(logits[k], 0) - logits[k] * x[k]; // and log(1 + e), by
      product *= 1 + e; // one logarithm for a row of the batch
      if (k % BATCH === BATCH - 1) {
        recon += Math.log(product);
        product = 1;
      }
      dy[k] = (scale / BATCH) * ((logits[k] > 0 ? 1 : e) / (1 + e) - x[k]); // sigmoid − x
    }
    for (let k = 0; k < z.length; k++) kl += (mu[k] ** 2 + Math.exp(logvar[k]) - 1 - logvar[k]) / 2;
    if (gradients) this.backward(beta / BATCH, noise);
    recon /= BATCH;
    kl /= BATCH;
    return { loss: scale * recon + beta * kl, recon, kl };
  }

  /** @param {number} weight of the KL of one image @param {boolean} noise */
  backward(weight, noise) {
    const { dz, eps } = this;
    const [hidden, heads, wide, out] = this.layers;
    out.backward(wide.dy, true);
    wide.backward(dz, false);
    for (let k = 0, n = dz.length; k < n; k++) {
      const sigma = Math.exp(heads.y[n + k] / 2); // z = μ + σ ε, and ∂σ/∂log σ² = σ / 2
      heads.dy[k] = dz[k] + weight * heads.y[k];
      heads.dy[n + k] = ((noise ? dz[k] * eps[k] * sigma : 0) + weight * (sigma ** 2 - 1)) / 2;
    }
    heads.backward(hidden.dy, true);
    hidden.backward(null);
  }

  /** One step of Adam along the gradients. @param {number} rate */
  update(rate) {
    const t = ++this.steps;
    const [fixed, fix] = [rate / (1 - 0.9 ** t), 1 / (1 - 0.999 ** t)]; // of means that began at 0
    for (const [w, g, m, v] of this.layers.flatMap((layer) => layer.parameters)) {
      this.kernel.adam(w, g, m, v, fixed, fix);
    }
  }
}
