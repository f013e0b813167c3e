// Places of the latent space: the way between two, the nearest code, and places in the address.

/** @typedef {{codes: Float32Array, d: number}} Codes d numbers for each image */

/** The mean code of image i. @param {Codes} model @param {number} i @returns {number[]} */
export const codeOf = ({ codes, d }, i) => [...codes.subarray(i * d, (i + 1) * d)];

/**
 * The code a share t of the way from a to b: on the line, or on the arc between their directions
 * (White 2016), which stays as far from the middle as its ends are.
 * @param {number[]} a @param {number[]} b @param {number} t @param {boolean} arc
 */
export function between(a, b, t, arc) {
  const dot = (u, v) => u.reduce((sum, value, k) => sum + value * v[k], 0);
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.min(0.9999, cosine));
  // Opposite directions have no shortest arc, and the middle itself has no direction: line.
  const curved = arc && cosine > -0.9999;
  const [s, r] = [1 - t, t].map((w) => (curved ? Math.sin(w * angle) / Math.sin(angle) : w));
  return a.map((value, k) => s * value + r * b[k]);
}

/** Index of the code nearest to z. @param {Codes["codes"]} codes @param {number[]} z */
export function nearest(codes, z) {
  let [best, least] = [0, Infinity];
  for (let i = 0; i * z.length < codes.length; i++) {
    let distance = 0;
    for (let k = 0; k < z.length; k++) distance += (codes[i * z.length + k] - z[k]) ** 2;
    if (distance < least) [best, least] = [i, distance];
  }
  return best;
}

/**
 * What an address asks for, such as #model=16&image=3&z=0.50,-1.20&a=image7&b=2,1&way=arc
 *
 *     model  2 or 16: the tab
 *     image  number of the test image that goes through the model
 *     z      the point whose picture is shown; a, b: the ends of the walk.
 *            A place is its coordinates, or image7 for the mean code of test image 7
 *     way    line or arc
 *
 * Nonsense is left out.
 * @template {Codes} T
 * @param {string} hash @param {T[]} models @param {T} current where the address names none
 */
export function readAddress(hash, models, current) {
  const asked = Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
  const model = models.find(({ d }) => d === Number(asked.model)) ?? current;
  const count = model.codes.length / model.d;
  const image = (text = "") => (/^\d+$/.test(text) && +text < count ? +text : undefined);
  const place = (text = "") => {
    const index = text.startsWith("image") ? image(text.slice(5)) : undefined;
    if (index !== undefined) return codeOf(model, index);
    const z = text.split(",").map((part) => (part.trim() ? Number(part) : NaN));
    return z.length === model.d && z.every(Number.isFinite) ? z : undefined;
  };
  const [z, a, b] = [asked.z, asked.a, asked.b].map((text) => place(text));
  return { model, image: image(asked.image), z, a, b, arc: asked.way && asked.way === "arc" };
}

/** The same as a text; what is undefined is left out. @param {Record<string, any>} parts */
export function writeAddress(parts) {
  const text = (v) => (Array.isArray(v) ? v.map((x) => x.toFixed(2)).join(",") : v);
  const given = Object.entries(parts).filter(([, value]) => value !== undefined);
  return "#" + given.map(([name, value]) => `${name}=${text(value)}`).join("&");
}
