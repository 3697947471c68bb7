// What the visitor saves: predictions.json as `distilpose predict` writes it, and the image as PNG.

import { drawPeople } from './draw.js';
import { keypointScores } from './pose.js';

export const MAX_ROWS = 20_000; // people kept of a video or camera; the oldest frames go first
const PERSON_CATEGORY = 1; // COCO's id of "person"
const ID_LIMIT = 2n ** 63n; // ids are below

/** The people of every frame seen so far. */
export class Recorder {
  frames = new Map(); // by time: the frame's id and its people, a line each
  rows = 0;
  nextFrameId = 1;

  /**
   * @param {import('./source.js').Source} source
   * @param {number | null} time in seconds; null for an image
   * @param {import('./pose.js').Pose[]} poses
   * @param {number[]} trackIds of the people, in the same order
   */
  add(source, time, poses, trackIds) {
    const before = this.frames.get(time);
    const id = time === null ? imageId(source.name) : (before?.id ?? this.nextFrameId++);
    const lines = poses.map((pose, row) => lineOf(source, time, id, toSource(pose, source.scale), trackIds[row]));
    this.rows += lines.length - (before?.lines.length ?? 0);
    this.frames.delete(time);
    this.frames.set(time, { id, lines });
    for (const [oldest, gone] of this.frames) {
      if (this.rows <= MAX_ROWS) break;
      this.frames.delete(oldest);
      this.rows -= gone.lines.length;
    }
  }

  /** A list with one person per line, in the order of time. */
  toJson() {
    const frames = [...this.frames.entries()].sort(([a], [b]) => (a ?? 0) - (b ?? 0));
    const lines = frames.flatMap(([, frame]) => frame.lines);
    return lines.length ? `[\n${lines.join(',\n')}\n]\n` : '[\n]\n';
  }
}

/**
 * The id of an image alone, as distilpose.formats.image_ids has it: the number that its file's name without suffix is
 * (`000000000785.jpg`: 785), else 1. A number of JavaScript would be exact below 2^53 only.
 */
function imageId(name) {
  const digits = name.split(/[/\\]/).at(-1).match(/^([0-9]+)(\.[^.]*)?$/)?.[1];
  return digits && BigInt(digits) < ID_LIMIT ? BigInt(digits) : 1n;
}

/** One person as JSON. */
function lineOf(source, time, id, pose, trackId) {
  const scores = keypointScores(pose);
  // A browser does not say which frame of a video it shows, only at what time.
  const image = time === null ? { image: source.name } : { image: source.name, frame: null, time };
  const person = {
    category_id: PERSON_CATEGORY,
    keypoints: pose.xy.flatMap(([x, y], k) => [x, y, scores[k]]),
    score: pose.poseScore,
    box_xyxy: pose.box,
    box_score: pose.boxScore,
    raw_score: pose.rawScore,
    sigma: pose.sigma,
    ...(time === null ? {} : { track_id: trackId }),
  };
  // JSON.stringify refuses a BigInt, so the id is put between the two.
  return `${JSON.stringify(image).slice(0, -1)},"image_id":${id},${JSON.stringify(person).slice(1)}`;
}

/** A pose found on the canvas, in pixels of the file, which may be larger. */
export const toSource = (pose, scale) => toCanvas(pose, 1 / scale);

/** A pose in pixels of the file, on the canvas. */
export function toCanvas(pose, factor) {
  if (factor === 1) return pose;
  return {
    ...pose,
    xy: pose.xy.map((point) => point.map((value) => (value + 0.5) * factor - 0.5)), // pixel areas, not centers, scale
    sigma: pose.sigma?.map((pair) => pair.map((value) => value * factor)) ?? null,
    box: pose.box.map((value) => value * factor),
  };
}

/** The image in its own size with its people on it. */
export function drawnImage(view) {
  const { width, height } = view.image;
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  drawPeople(canvas.getContext('2d'), view, { scale: 1, x: 0, y: 0 });
  return blobOf(canvas, 'image/png');
}

/** @returns {Promise<Blob>} */
export function blobOf(canvas, type, quality) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(`no ${type} could be made`))), type, quality);
  });
}

/** Offer a file to the visitor. */
export function download(blob, name) {
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
