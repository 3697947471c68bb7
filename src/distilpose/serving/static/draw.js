// People on a canvas, as distilpose.visualization.draw draws them: limbs colored by body side, ellipses where the model is unsure.

import { keypointScores } from './pose.js';

// Score from which a keypoint begins to show, and from which on it shows in full; likewise sigma as a share of the
// person's extent. tests/web holds these against distilpose.visualization.draw.
export const SCORE_RAMP = [0.05, 0.4];
export const SIGMA_RAMP = [0.045, 0.085];
export const WIDTH_SHARE = 0.017;
const [LEAST_WIDTH, MOST_WIDTH] = [1.5, 16];
const INK = [16, 20, 28];
const [INK_OPACITY, ELLIPSE_FILL, ELLIPSE_EDGE] = [0.6, 0.28, 0.75];

/**
 * Draw one person.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import('./pose.js').Pose} pose in image pixels
 * @param {object} skeleton of the manifest
 * @param {Record<string, number[]>} colors of the body sides
 * @param {{scale: number, x: number, y: number}} place of the image on the canvas
 * @param {boolean} ellipses
 */
export function drawPose(context, pose, skeleton, colors, place, ellipses) {
  // A pixel's center has whole coordinates in the image and half ones on a canvas.
  const points = pose.xy.map(([x, y]) => [(x + 0.5) * place.scale + place.x, (y + 0.5) * place.scale + place.y]);
  const opacity = keypointScores(pose).map((score) => ramp(score, SCORE_RAMP));
  const extent = extentOf(points, opacity);
  const width = clamp(WIDTH_SHARE * extent, LEAST_WIDTH, MOST_WIDTH);
  const of = (k) => colors[skeleton.sides[k]];

  if (ellipses && pose.sigma) {
    pose.sigma.forEach((pair, k) => {
      const radii = pair.map((value) => Math.max(value * place.scale, 0.5));
      const doubt = ramp(Math.max(...radii) / Math.max(extent, 1), SIGMA_RAMP) * opacity[k];
      if (doubt <= 0) return;
      fill(context, points[k], radii, of(k), ELLIPSE_FILL * doubt);
      stroke(context, width / 2.5, of(k), ELLIPSE_EDGE * doubt);
    });
  }

  const limbs = skeleton.edges
    .map(([a, b]) => ({ a, b, strength: Math.min(opacity[a], opacity[b]) }))
    .filter((limb) => limb.strength > 0);
  const line = ({ a, b }, lineWidth, color, alpha) => {
    context.beginPath();
    context.moveTo(...points[a]);
    context.lineTo(...points[b]);
    stroke(context, lineWidth, color, alpha);
  };
  const outline = Math.min(1.25, 0.4 * width); // all outlines come first, so that none cuts a limb
  for (const limb of limbs) line(limb, width + 2 * outline, INK, INK_OPACITY * limb.strength);
  for (const limb of limbs) {
    line(limb, width, colors[limbSide(skeleton.sides[limb.a], skeleton.sides[limb.b])], limb.strength);
  }

  const reach = points.map((point, k) => {
    const ends = skeleton.edges.filter((edge) => edge.includes(k)).map(([a, b]) => points[a === k ? b : a]);
    return Math.max(0, ...ends.map(([x, y]) => Math.hypot(x - point[0], y - point[1])));
  });
  points.forEach((point, k) => {
    if (opacity[k] <= 0) return;
    const radius = clamp(0.2 * reach[k], 0.6 * width, 0.95 * width);
    fill(context, point, [radius + 0.6, radius + 0.6], INK, INK_OPACITY * opacity[k]);
    fill(context, point, [radius, radius], [255, 255, 255], opacity[k]);
    fill(context, point, [0.68 * radius, 0.68 * radius], of(k), opacity[k]);
  });
}

/** The image with its people, as large as the page has room for. */
export class Stage {
  /**
   * @param {HTMLElement} element that keeps its size whatever is shown
   * @param {HTMLCanvasElement} canvas fills the element
   * @param {HTMLElement} layer of the boxes, laid exactly over the image
   */
  constructor(element, canvas, layer) {
    Object.assign(this, { element, canvas, layer, shown: null });
    new ResizeObserver(() => this.paint()).observe(element);
  }

  /** @param {{image: HTMLCanvasElement, poses: object[], skeleton: object, colors: object, ellipses: boolean}} shown */
  show(shown) {
    this.shown = shown;
    this.paint();
  }

  clear() {
    this.shown = null;
    this.canvas.getContext('2d').clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  paint() {
    if (!this.shown) return;
    const { image } = this.shown;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [this.element.clientWidth, this.element.clientHeight].map((side) => Math.round(side * density));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const scale = Math.min(width / image.width, height / image.height);
    const place = { scale, x: (width - scale * image.width) / 2, y: (height - scale * image.height) / 2 };
    const context = this.canvas.getContext('2d');
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = 'high';
    drawPeople(context, this.shown, place);
    Object.assign(this.layer.style, {
      left: `${place.x / density}px`,
      top: `${place.y / density}px`,
      width: `${(scale * image.width) / density}px`,
      height: `${(scale * image.height) / density}px`,
    });
  }
}

/** An image and the people in it, at a place of a canvas. */
export function drawPeople(context, { image, poses, skeleton, colors, ellipses }, place) {
  context.drawImage(image, place.x, place.y, place.scale * image.width, place.scale * image.height);
  for (const pose of poses) drawPose(context, pose, skeleton, colors, place, ellipses);
}

/** A limb has the side of its ends; one from side to side is in the center, one from the center out is outer. */
function limbSide(a, b) {
  if (a === 'center') return b;
  return a === b || b === 'center' ? a : 'center';
}

function extentOf(points, opacity) {
  const sure = points.filter((_, k) => opacity[k] > 0.5);
  const spans = [0, 1].map((axis) => {
    const values = (sure.length < 2 ? points : sure).map((point) => point[axis]);
    return Math.max(...values) - Math.min(...values);
  });
  return Math.max(...spans);
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function ramp(value, [from, to]) {
  return clamp((value - from) / (to - from), 0, 1);
}

function stroke(context, width, color, alpha) {
  context.lineCap = 'round';
  context.lineWidth = width;
  context.strokeStyle = `rgb(${color.join(' ')} / ${alpha})`;
  context.stroke();
}

function fill(context, [x, y], [radiusX, radiusY], color, alpha) {
  context.beginPath();
  context.ellipse(x, y, radiusX, radiusY, 0, 0, 2 * Math.PI);
  context.fillStyle = `rgb(${color.join(' ')} / ${alpha})`;
  context.fill();
}
