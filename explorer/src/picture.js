// From a drawing or a photo to 28 × 28 pixels, as MNIST's were made.

/**
 * Grey values of a picture, in any range, as ink in [0, 1] on empty ground: inverted if dark on
 * light, the ground's own unevenness cut off.
 * @param {Float32Array} grey
 */
export function inkOf(grey) {
  const sorted = Float32Array.from(grey).sort();
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [low, ground, high] = [at(0.005), at(0.5), at(0.995)]; // most of a picture is ground
  const ink = ground - low > high - ground ? low : high;
  // A quarter of the way from ground to ink is still ground; three quarters are full ink.
  return Float32Array.from(grey, (v) => {
    const share = (v - ground) / (ink - ground || 1);
    return Math.min(1, Math.max(0, 2 * share - 0.5));
  });
}

/**
 * Ink (side × side values in [0, 1]) as MNIST's images: its bounding box scaled into 20 × 20 pixels,
 * sides in proportion, then placed so that its centre of mass is in the middle of 28 × 28.
 * null where there is no ink.
 * @param {Float32Array} ink @param {number} side
 */
export function asMnist(ink, side) {
  let [left, right, top, bottom, mass, sumX, sumY] = [side, -1, side, -1, 0, 0, 0];
  for (let i = 0; i < ink.length; i++) {
    const [x, y] = [i % side, Math.floor(i / side)];
    if (ink[i] > 0.25) {
      [left, right] = [Math.min(left, x), Math.max(right, x)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
    }
    [mass, sumX, sumY] = [mass + ink[i], sumX + ink[i] * (x + 0.5), sumY + ink[i] * (y + 0.5)];
  }
  if (right < 0) return null;
  const step = Math.max(right - left + 1, bottom - top + 1) / 20; // of a new pixel, in old ones
  // Whole pixels from the box to the edge, so that its sides stay sharp. 14.5 is where the centre of
  // mass of MNIST's test images is, on average.
  const start = (edge, mean) => edge - step * Math.round(14.5 - (mean - edge) / step);
  const [startX, startY] = [start(left, sumX / mass), start(top, sumY / mass)];
  return Float32Array.from({ length: 784 }, (_, i) => {
    let sum = 0; // the mean over 6 × 6 points of the new pixel
    for (let n = 0; n < 36; n++) {
      const x = Math.floor(startX + step * ((i % 28) + ((n % 6) + 0.5) / 6));
      const y = Math.floor(startY + step * (Math.floor(i / 28) + (Math.floor(n / 6) + 0.5) / 6));
      if (x >= 0 && x < side && y >= 0 && y < side) sum += ink[y * side + x];
    }
    return sum / 36;
  });
}
