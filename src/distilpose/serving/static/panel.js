// What the page says beside the image: measured numbers, keypoints, notes.

import { keypointScores } from './pose.js';
import { toSource } from './results.js';
import { difference } from './server.js';

const SMOOTHING = 0.2; // share of the newest frame in the running means of rate and latency

/** An element of the page. */
export const part = (id) => document.getElementById(id);

export class Panel {
  constructor() {
    this.rate = this.latency = this.lastFrame = null;
  }

  clear() {
    this.rate = this.latency = this.lastFrame = null;
    for (const id of ['rate', 'latency', 'network', 'score', 'clock']) part(id).textContent = '–';
    part('canvas').setAttribute('aria-label', 'Nothing opened yet');
    part('play').textContent = 'Play';
    part('seek').value = '0';
    part('seek').removeAttribute('aria-valuetext');
    part('keypoints').replaceChildren();
  }

  measure(from, begun, milliseconds) {
    const now = performance.now();
    const mean = (before, value) => (before === null ? value : before + SMOOTHING * (value - before));
    this.latency = mean(from.video ? this.latency : null, now - begun);
    const moving = from.video !== null && !from.video.paused;
    if (moving && this.lastFrame !== null) this.rate = mean(this.rate, now - this.lastFrame);
    this.lastFrame = moving ? now : null;
    part('latency').textContent = `${this.latency.toFixed(0)} ms`;
    part('network').textContent = `${milliseconds.toFixed(0)} ms`;
    part('rate').textContent = this.rate === null ? '–' : (1000 / this.rate).toFixed(1);
  }

  tellPoses(from, poses, skeleton) {
    const scores = poses.map((pose) => pose.poseScore.toFixed(2)).join(', ');
    part('score').textContent = scores.length > 24 ? `${scores.slice(0, 23)}…` : scores || '–';
    const who = poses.length === 1 ? '1 person' : `${poses.length} people`;
    part('canvas').setAttribute('aria-label', `${from.name}: ${who}, pose score ${scores}`);
    const first = poses[0] && toSource(poses[0], from.scale);
    const shownScores = first && keypointScores(first);
    const rows = (first?.xy ?? []).map(([x, y], k) => {
      const row = document.createElement('tr');
      const score = first.rawScore ? shownScores[k].toFixed(2) : '–';
      for (const text of [skeleton.keypoint_names[k].replaceAll('_', ' '), x.toFixed(1), y.toFixed(1), score]) {
        row.insertCell().textContent = text;
      }
      return row;
    });
    part('keypoints').replaceChildren(...rows);
  }

  tellThreads(threads) {
    part('threads').textContent = self.crossOriginIsolated
      ? `WebAssembly, ${threads} ${threads === 1 ? 'thread' : 'threads'}.`
      : 'WebAssembly, 1 thread: this host does not isolate the page (headers COOP and COEP), so the browser allows no more.';
  }

  tellDifference(here, there) {
    const apart = difference(here.poses, there.poses);
    part('difference').textContent = apart
      ? `Largest difference ${apart.largest.toFixed(3)} px, mean ${apart.mean.toFixed(3)} px. ` +
        `Here ${here.milliseconds.toFixed(0)} ms, server ${there.milliseconds.toFixed(0)} ms.`
      : 'The server found nobody to compare with.';
  }
}

export function clock(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}
