// What the network says -> people in image pixels, and where to look for them next.
//
// The rules are those of distilpose.inference.decoding and distilpose.video.pose_boxes; their numbers are in the manifest.

import { normToImage } from './geometry.js';

const LEAST_KEYPOINTS = 3; // with fewer sure ones, all keypoints span the box

/**
 * One person.
 *
 * @typedef {object} Pose
 * @property {number[][]} xy K points in image pixels
 * @property {number[] | null} rawScore K, unbounded; null from a model without scores
 * @property {number[][] | null} sigma K spreads along x and y in image pixels
 * @property {number[]} box [x1, y1, x2, y2] that was cut out
 * @property {number} boxScore
 * @property {number} poseScore
 */

/**
 * Read the people of a batch of crops.
 *
 * @param {{xy_norm: Float32Array, sigma?: Float32Array, score?: Float32Array}} output of the network
 * @param {object[]} crops from cropOfBox, one per row
 * @param {{box: number[], score: number}[]} asked boxes that were cut out, and their scores
 * @param {object} model entry of the manifest
 * @param {object} rules of the manifest
 * @returns {Pose[]}
 */
export function decode(output, crops, asked, model, rules) {
  const count = model.skeleton.keypoint_names.length;
  const [gridHeight, gridWidth] = model.heatmap_size_hw;
  return crops.map((crop, person) => {
    const xy = [];
    const sigma = output.sigma ? [] : null;
    for (let k = 0; k < count; k++) {
      const at = 2 * (person * count + k);
      xy.push(normToImage(crop, output.xy_norm[at], output.xy_norm[at + 1]));
      sigma?.push([
        (output.sigma[at] * crop.boxWh[0]) / gridWidth,
        (output.sigma[at + 1] * crop.boxWh[1]) / gridHeight,
      ]);
    }
    const rawScore = output.score ? Array.from(output.score.subarray(person * count, (person + 1) * count)) : null;
    const { box, score: boxScore } = asked[person];
    return { xy, rawScore, sigma, box, boxScore, poseScore: scoreOfPose(boxScore, rawScore, rules) };
  });
}

/** Box score times the mean of the keypoint scores above the threshold; the box score from a model without scores. */
export function scoreOfPose(boxScore, rawScore, rules) {
  if (!rawScore) return boxScore;
  const counted = rawScore.filter((score) => score > rules.keypoint_score_threshold);
  return (boxScore * counted.reduce((sum, score) => sum + score, 0)) / Math.max(1, counted.length);
}

/** Scores in [0, 1] of a pose's keypoints; 1 from a model without scores. */
export function keypointScores(pose) {
  return pose.rawScore ? pose.rawScore.map((score) => Math.min(Math.max(score, 0), 1)) : pose.xy.map(() => 1);
}

/** The person box [x1, y1, x2, y2], in image pixels, as it usually lies around such a pose: pose_boxes.boxes_around. */
export function boxAround(pose, rules) {
  const scores = keypointScores(pose);
  let sure = pose.xy.filter((_, k) => scores[k] >= rules.keypoint_score_threshold);
  if (sure.length < LEAST_KEYPOINTS) sure = pose.xy;
  const [x, y] = [0, 1].map((axis) => sure.map((point) => point[axis]));
  const extent = [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
  const longer = Math.max(extent[2] - extent[0], extent[3] - extent[1], 1);
  return extent.map((edge, side) => edge + (side < 2 ? -1 : 1) * longer * rules.box_margin[side]);
}

/** Object keypoint similarity of two poses at the area of the smaller padded box, in [0, 1]. */
export function similarity(a, b, skeleton, rules) {
  const area = Math.min(areaOf(a.box), areaOf(b.box)) * rules.crop_padding ** 2;
  const terms = a.xy.map(([x, y], k) => {
    const squared = (x - b.xy[k][0]) ** 2 + (y - b.xy[k][1]) ** 2;
    return Math.exp(-squared / (2 * area * (2 * skeleton.oks_sigmas[k]) ** 2));
  });
  return terms.reduce((sum, term) => sum + term, 0) / terms.length;
}

function areaOf([x1, y1, x2, y2]) {
  return Math.max(1, (x2 - x1) * (y2 - y1));
}
