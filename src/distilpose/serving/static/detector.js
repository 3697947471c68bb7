// Where the people of an image are: the rules of distilpose.detection.nanodet and distilpose.detection.filtering.

/**
 * The network's input: the image scaled to fit, padded with black right and below to whole cells.
 *
 * @param {number} width of the image in pixels
 * @param {number} height
 * @param {number} size of the longer side
 * @param {number} cell that the input's sides are multiples of
 * @returns {{innerWh: number[], inputWh: number[]}} pixels of the scaled image and of the input
 */
export function fitImage(width, height, size, cell) {
  const scale = size / Math.max(width, height);
  const innerWh = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  return { innerWh, inputWh: innerWh.map((side) => cell * Math.ceil(side / cell)) };
}

/** RGBA pixels of a canvas -> RGB, rows first. */
export function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/**
 * The boxes that count: sure enough, inside the image, each person once.
 *
 * @param {Float32Array} boxes N * 4 in pixels of the input
 * @param {Float32Array} scores N
 * @param {number[]} innerWh from fitImage
 * @param {number[]} imageWh
 * @param {{threshold: number, nms_iou: number}} detector entry of the manifest
 * @returns {{box: number[], score: number}[]} in pixels of the image, best score first
 */
export function keepPeople(boxes, scores, innerWh, imageWh, { threshold, nms_iou: most }) {
  const found = [];
  scores.forEach((score, row) => {
    if (!(score >= threshold)) return;
    const box = Array.from(boxes.subarray(4 * row, 4 * row + 4), (value, side) => {
      const axis = side % 2;
      return Math.min(Math.max((value * imageWh[axis]) / innerWh[axis], 0), imageWh[axis]);
    });
    if (box[0] < box[2] && box[1] < box[3]) found.push({ box, score });
  });
  found.sort((a, b) => b.score - a.score);
  const kept = [];
  for (const one of found) if (kept.every((other) => overlap(one.box, other.box) <= most)) kept.push(one);
  return kept;
}

/** Intersection over union of two boxes. */
export function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
