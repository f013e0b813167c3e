// What the page and its worker agree on.

export const HELD_OUT = 768; // images at the end of each data set that are never trained on
export const CYCLE = 2000; // steps of a one-cycle schedule
export const WARM_UP = 1000; // steps in which β rises from 0
export const GRID = 16; // the mosaic has 16 × 16 pictures
export const SHOWN = 6; // images with reconstructions, and as many samples

/**
 * @typedef {{loss: number, recon: number, kl: number}} Losses in nats per image
 * @typedef {typeof STANDARD} Settings
 * @typedef {{u: number[], v: number[]}} View directions of the map in the space of codes
 *
 * @typedef {object} Snapshot of a run, as worker.js posts it
 * @property {number} id of the run
 * @property {number} d size of the code
 * @property {number} step
 * @property {number} beta in force, as is `rate`
 * @property {number} rate
 * @property {Losses | 0} train on average over the batches since the last one; 0 for none
 * @property {Losses} held of the held-out images
 * @property {Float32Array} codes μ of the held-out images, d numbers each
 * @property {View} view
 * @property {number} reach half a side of the map
 * @property {number} speed in steps a second
 * @property {boolean} running
 * @property {string} kernel WebAssembly or JavaScript
 * @property {Uint8Array} originals pictures, as all that follow: 784 bytes each
 * @property {Uint8Array} rebuilt
 * @property {Uint8Array} samples
 * @property {Uint8Array} mosaic of the plane
 */

/** What a run starts from. */
export const STANDARD = {
  dataset: "digits",
  d: 2, // size of the code
  seed: 1,
  beta: 1,
  warmUp: false,
  noise: true,
  mean: false, // reconstruction averaged over the pixels instead of summed
  rate: 3e-3,
  schedule: "constant", // or "one-cycle"
  showLabels: true, // of no use to the worker
};

/** β and learning rate that are in force at a step. @param {Settings} settings @param {number} step */
export function inForce({ beta, warmUp, rate, schedule }, step) {
  const part = (step % CYCLE) / CYCLE;
  const cycle = part < 0.2 ? part / 0.2 : (1 + Math.cos((Math.PI * (part - 0.2)) / 0.8)) / 2;
  return {
    beta: warmUp ? beta * Math.min(1, step / WARM_UP) : beta,
    rate: schedule === "one-cycle" ? rate * Math.max(cycle, 0.001) : rate,
  };
}
