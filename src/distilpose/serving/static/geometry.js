// Boxes, crops and the pixels of a crop: the rules of distilpose.geometry and distilpose.data.preprocess.
//
// A box is [x1, y1, x2, y2] and a point [x, y], in image pixels; a pixel's center has whole coordinates.

const FINE = 1024; // steps per pixel in which OpenCV adds up positions
const STEPS = 32; // steps per pixel of the positions that it reads at

/**
 * The crop of a person box: grown to the crop's aspect, padded, its center mapped to (W / 2, H / 2).
 *
 * @param {number[]} box [x1, y1, x2, y2] in image pixels
 * @param {number[]} sizeHw [H, W] of the crop
 * @param {number} padding factor on both sides of the box
 * @returns {{scale: number, offset: number[], boxWh: number[], sizeHw: number[]}} crop = scale * image + offset
 */
export function cropOfBox([x1, y1, x2, y2], sizeHw, padding) {
  const [cropHeight, cropWidth] = sizeHw;
  const aspect = cropWidth / cropHeight;
  let width = x2 - x1;
  let height = y2 - y1;
  if (width > aspect * height) height = width / aspect;
  else width = height * aspect;
  const boxWh = [width * padding, height * padding];
  const scale = cropWidth / boxWh[0];
  const offset = [cropWidth / 2 - (scale * (x1 + x2)) / 2, cropHeight / 2 - (scale * (y1 + y2)) / 2];
  return { scale, offset, boxWh, sizeHw };
}

/** A point of the crop, as fractions of its width and height, in image pixels. */
export function normToImage(crop, xNorm, yNorm) {
  const [height, width] = crop.sizeHw;
  return [(xNorm * width - crop.offset[0]) / crop.scale, (yNorm * height - crop.offset[1]) / crop.scale];
}

/**
 * The part of the image that a crop reads, or null where the two do not meet.
 *
 * @returns {{x: number, y: number, width: number, height: number} | null} whole pixels
 */
export function regionOfCrop(crop, imageWidth, imageHeight) {
  const [height, width] = crop.sizeHw;
  // One pixel more than the corners of the crop need on each side: positions are rounded when they are read.
  const left = Math.max(0, Math.floor(-crop.offset[0] / crop.scale) - 1);
  const top = Math.max(0, Math.floor(-crop.offset[1] / crop.scale) - 1);
  const right = Math.min(imageWidth, Math.floor((width - 1 - crop.offset[0]) / crop.scale) + 3);
  const bottom = Math.min(imageHeight, Math.floor((height - 1 - crop.offset[1]) / crop.scale) + 3);
  if (left >= right || top >= bottom) return null;
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/**
 * Cut a crop out of pixels: bilinear, black outside. What a canvas does when it scales differs from browser to
 * browser, so the sampling is written out, with positions rounded to 1/32 pixel as OpenCV's warpAffine rounds them:
 * without that the poses of the two differ by up to 0.003 of the crop.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} pixels RGBA of a region, rows first
 * @param {{x: number, y: number}} region where the pixels begin in the image
 * @param {object} crop from cropOfBox
 * @param {Uint8Array} planes 3 * H * W values to fill: red, green, blue planes
 */
export function sampleCrop(pixels, region, crop, planes) {
  const [height, width] = crop.sizeHw;
  const columns = taps(width, crop.offset[0], crop.scale, region.x, pixels.width);
  const rows = taps(height, crop.offset[1], crop.scale, region.y, pixels.height);
  const { data } = pixels;
  const plane = height * width;
  const stride = 4 * pixels.width;
  for (let v = 0; v < height; v++) {
    const upper = rows.first[v] * stride;
    const lower = rows.second[v] * stride;
    for (let u = 0; u < width; u++) {
      const left = 4 * columns.first[u];
      const right = 4 * columns.second[u];
      const a = rows.firstWeight[v] * columns.firstWeight[u];
      const b = rows.firstWeight[v] * columns.secondWeight[u];
      const c = rows.secondWeight[v] * columns.firstWeight[u];
      const d = rows.secondWeight[v] * columns.secondWeight[u];
      const at = v * width + u;
      for (let channel = 0; channel < 3; channel++) {
        const value =
          a * data[upper + left + channel] +
          b * data[upper + right + channel] +
          c * data[lower + left + channel] +
          d * data[lower + right + channel];
        planes[channel * plane + at] = value + 0.5;
      }
    }
  }
}

/** Along one axis: the two pixels on either side of each crop pixel, and their weights, 0 outside the image. */
function taps(count, offset, scale, start, length) {
  const first = new Int32Array(count);
  const second = new Int32Array(count);
  const firstWeight = new Float64Array(count);
  const secondWeight = new Float64Array(count);
  const origin = Math.round((-offset / scale) * FINE) + FINE / STEPS / 2;
  for (let index = 0; index < count; index++) {
    const steps = Math.floor((Math.round((index / scale) * FINE) + origin) / (FINE / STEPS));
    const position = steps / STEPS - start;
    const low = Math.floor(position);
    const share = position - low;
    firstWeight[index] = low >= 0 && low < length ? 1 - share : 0;
    secondWeight[index] = low + 1 >= 0 && low + 1 < length ? share : 0;
    first[index] = Math.min(Math.max(low, 0), length - 1);
    second[index] = Math.min(Math.max(low + 1, 0), length - 1);
  }
  return { first, second, firstWeight, secondWeight };
}
