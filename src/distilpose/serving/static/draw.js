// People on a canvas, as distilpose.visualization.draw draws them: limbs colored by body side, ellipses where the model is unsure.

import { keypointScores } from './pose.js';

// Score from which a keypoint begins to show, and from which on it shows in full; likewise sigma as a share of the
// person's extent. tests/web holds these against distilpose.visualization.draw.
export const SCORE_RAMP = [0.05, 0.4];
export const SIGMA_RAMP = [0.045, 0.085];
export const WIDTH_SHARE = 0.017;
const [LEAST_WIDTH, MOST_WIDTH] = [1.5, 16];
const INK = 'rgb(16 20 28)';
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
  const width = Math.min(Math.max(WIDTH_SHARE * extent, LEAST_WIDTH), MOST_WIDTH);
  const paint = { context, points, opacity, extent, width, skeleton, colors };
  context.save();
  context.lineCap = 'round';
  if (ellipses && pose.sigma) paintEllipses(paint, pose.sigma, place.scale);
  paintLimbs(paint);
  paintJoints(paint);
  context.restore();
}

function paintEllipses({ context, points, opacity, extent, width, skeleton, colors }, sigma, scale) {
  sigma.forEach(([sigmaX, sigmaY], k) => {
    const [radiusX, radiusY] = [Math.max(sigmaX * scale, 0.5), Math.max(sigmaY * scale, 0.5)];
    const doubt = ramp(Math.max(radiusX, radiusY) / Math.max(extent, 1), SIGMA_RAMP) * opacity[k];
    if (doubt <= 0) return;
    context.beginPath();
    context.ellipse(points[k][0], points[k][1], radiusX, radiusY, 0, 0, 2 * Math.PI);
    context.fillStyle = color(colors[skeleton.sides[k]], ELLIPSE_FILL * doubt);
    context.fill();
    context.lineWidth = width / 2.5;
    context.strokeStyle = color(colors[skeleton.sides[k]], ELLIPSE_EDGE * doubt);
    context.stroke();
  });
}

function paintLimbs({ context, points, opacity, width, skeleton, colors }) {
  const limbs = skeleton.edges
    .map(([a, b]) => ({ a, b, strength: Math.min(opacity[a], opacity[b]) }))
    .filter((limb) => limb.strength > 0);
  const outline = Math.min(1.25, 0.4 * width);
  for (const { a, b, strength } of limbs) {
    context.globalAlpha = INK_OPACITY * strength; // all outlines come first, so that none cuts a limb
    line(context, points[a], points[b], width + 2 * outline, INK);
  }
  for (const { a, b, strength } of limbs) {
    context.globalAlpha = strength;
    line(context, points[a], points[b], width, color(colors[limbSide(skeleton.sides[a], skeleton.sides[b])], 1));
  }
  context.globalAlpha = 1;
}

function paintJoints({ context, points, opacity, width, skeleton, colors }) {
  const reach = points.map(() => 0);
  for (const [a, b] of skeleton.edges) {
    const length = Math.hypot(points[a][0] - points[b][0], points[a][1] - points[b][1]);
    reach[a] = Math.max(reach[a], length);
    reach[b] = Math.max(reach[b], length);
  }
  points.forEach((point, k) => {
    if (opacity[k] <= 0) return;
    const radius = Math.min(Math.max(0.2 * reach[k], 0.6 * width), 0.95 * width);
    context.globalAlpha = opacity[k];
    dot(context, point, radius + 0.6, color([16, 20, 28], INK_OPACITY));
    dot(context, point, radius, 'white');
    dot(context, point, 0.68 * radius, color(colors[skeleton.sides[k]], 1));
  });
  context.globalAlpha = 1;
}

/** A limb has the side of its ends; one from side to side is in the center, one from the center out is outer. */
function limbSide(a, b) {
  if (a === 'center') return b;
  if (b === 'center') return a;
  return a === b ? a : 'center';
}

function extentOf(points, opacity) {
  let shown = points.filter((_, k) => opacity[k] > 0.5);
  if (shown.length < 2) shown = points;
  const span = (axis) => {
    const values = shown.map((point) => point[axis]);
    return Math.max(...values) - Math.min(...values);
  };
  return Math.max(span(0), span(1));
}

function ramp(value, [from, to]) {
  return Math.min(Math.max((value - from) / (to - from), 0), 1);
}

function line(context, from, to, width, style) {
  context.beginPath();
  context.moveTo(from[0], from[1]);
  context.lineTo(to[0], to[1]);
  context.lineWidth = width;
  context.strokeStyle = style;
  context.stroke();
}

function dot(context, [x, y], radius, style) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = style;
  context.fill();
}

function color([red, green, blue], alpha) {
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}
