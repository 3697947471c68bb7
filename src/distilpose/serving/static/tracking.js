// Where to look for a person in the next frame: the rule of distilpose.inference.tracking, at the time of the last pose.
//
// Two boxes are blended: one around the keypoints that are sure now, which follows the body, and the one that the person
// was first seen in, moved and scaled as the pose has been since, which counts the more the less of the body is still
// sure. The first alone would shrink around a body that is half hidden, until nothing is left of it.

import { keypointScores } from './pose.js';

// As in distilpose.inference.tracking; tests/web holds this file against its PoseTracker.
const LEAST_WEIGHT = 0.05; // a keypoint of score 0 still says a little
const LEAST_KEYPOINTS = 3; // with fewer sure ones, all keypoints span the box
const POSE_SHARE = 0.75; // of the box around the pose, while all of the body is as sure as it was
const SCALE_LIMIT = 2; // most that a box grows or shrinks with its pose

/**
 * What is remembered of how a person was seen: pose, and the box within what is usual around such poses.
 *
 * @param {import('./pose.js').Pose} pose
 * @param {object} rules of the manifest
 */
export function anchorAt(pose, rules) {
  const weight = weights(pose);
  const extent = extentOf(pose.xy, weight, rules);
  const inner = grown(extent, rules.box_margin_low);
  const outer = grown(extent, rules.box_margin_high);
  const box = pose.box.map((value, side) => {
    const [low, high] = [Math.min(inner[side], outer[side]), Math.max(inner[side], outer[side])];
    return Math.min(Math.max(value, low), high);
  });
  return { xy: pose.xy, weight, box };
}

/** How many keypoints an anchor or pose is sure of. */
export function sureCount(weight, rules) {
  return weight.filter((value) => value >= rules.keypoint_score_threshold).length;
}

/** Weights of a pose's keypoints, in (0, 1]. */
export function weights(pose) {
  return keypointScores(pose).map((score) => Math.max(score, LEAST_WEIGHT));
}

/**
 * The box in which the person is expected.
 *
 * @param {object} anchor from anchorAt
 * @param {import('./pose.js').Pose} pose the last one
 * @returns {number[]} [x1, y1, x2, y2] in image pixels
 */
export function expectedBox(anchor, pose, rules) {
  const weight = weights(pose);
  const around = grown(extentOf(pose.xy, weight, rules), rules.box_margin);
  const trust = POSE_SHARE * stillSpanned(anchor, weight, rules);
  const carried = carriedBox(anchor, pose.xy, weight);
  return around.map((value, side) => trust * value + (1 - trust) * carried[side]);
}

/** Share of the anchor's extent that the keypoints sure then and now span. */
function stillSpanned(anchor, weight, rules) {
  const sure = (value) => value >= rules.keypoint_score_threshold;
  const both = anchor.weight.map((value, k) => (sure(value) && sure(weight[k]) ? 1 : 0));
  if (both.filter(Boolean).length < LEAST_KEYPOINTS) return 0;
  const spanned = areaOf(extentOf(anchor.xy, both, rules));
  return Math.min(1, spanned / areaOf(extentOf(anchor.xy, anchor.weight, rules)));
}

/** The anchor's box, moved and scaled as the pose was since then. */
function carriedBox(anchor, xy, weight) {
  const both = anchor.weight.map((value, k) => value * weight[k]);
  const [before, after] = [weightedMean(anchor.xy, both), weightedMean(xy, both)];
  const growth = spread(xy, after, both) / spread(anchor.xy, before, both);
  const scale = Math.min(Math.max(growth, 1 / SCALE_LIMIT), SCALE_LIMIT);
  return anchor.box.map((value, side) => (value - before[side % 2]) * scale + after[side % 2]);
}

function weightedMean(points, weight) {
  const total = weight.reduce((sum, value) => sum + value, 0);
  return [0, 1].map((axis) => points.reduce((sum, point, k) => sum + weight[k] * point[axis], 0) / total);
}

function spread(points, [x, y], weight) {
  const total = weight.reduce((sum, value) => sum + value, 0);
  const squares = points.reduce((sum, point, k) => sum + weight[k] * ((point[0] - x) ** 2 + (point[1] - y) ** 2), 0);
  return Math.sqrt(squares / total) + 1; // one pixel, so that no pose is without spread
}

function extentOf(points, weight, rules) {
  let shown = points.filter((_, k) => weight[k] >= rules.keypoint_score_threshold);
  if (shown.length < LEAST_KEYPOINTS) shown = points;
  const x = shown.map((point) => point[0]);
  const y = shown.map((point) => point[1]);
  return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
}

function grown([left, top, right, bottom], [marginLeft, marginTop, marginRight, marginBottom]) {
  const longer = Math.max(right - left, bottom - top, 1);
  return [
    left - longer * marginLeft,
    top - longer * marginTop,
    right + longer * marginRight,
    bottom + longer * marginBottom,
  ];
}

function areaOf([x1, y1, x2, y2]) {
  return Math.max(1, (x2 - x1) * (y2 - y1));
}
