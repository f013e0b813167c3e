// What the page says about a snapshot: measured here, since the worker knows no labels.

import { HELD_OUT } from "./lab-settings.js";

const RADIUS = [1.96, 2.45, 2.8]; // 95 % of N(0, I) lie within it, in one, two and three dimensions

/**
 * Are the classes apart, and do the codes lie where the prior has its samples?
 * @param {import("./lab-settings.js").Snapshot} snapshot @param {number[]} labels
 */
export function measure({ codes, d }, labels) {
  const mixed = {}; // how often two classes are taken for each other
  let [same, inside, squares] = [0, 0, 0];
  for (let i = 0; i < HELD_OUT; i++) {
    let [nearest, least, size] = [(i + 1) % HELD_OUT, Infinity, 0];
    for (let j = 0; j < HELD_OUT; j++) {
      let far = 0;
      for (let k = 0; k < d; k++) far += (codes[i * d + k] - codes[j * d + k]) ** 2;
      if (far < least && i !== j) [nearest, least] = [j, far];
    }
    for (let k = 0; k < d; k++) size += codes[i * d + k] ** 2;
    const pair = [labels[i], labels[nearest]].sort();
    if (pair[0] === pair[1]) same++;
    else mixed[pair] = (mixed[pair] ?? 0) + 1;
    if (size < RADIUS[d - 1] ** 2) inside++;
    squares += size;
  }
  const worst = Object.keys(mixed).reduce((a, b) => (mixed[b] > (mixed[a] ?? 0) ? b : a), "0,1");
  return {
    same: same / HELD_OUT, // share of images whose nearest other code is of the same class
    inside: inside / HELD_OUT, // share of codes where 95 % of the prior's samples fall
    spread: Math.sqrt(squares / HELD_OUT / d), // root mean square of a coordinate; the prior's is 1
    pair: worst.split(",").map(Number),
  };
}
