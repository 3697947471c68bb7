// The page's side of the networks: asks the worker, one question at a time.

import { fitImage, keepPeople, withoutAlpha } from './detector.js';
import { cropOfBox, regionOfCrop, sampleCrop } from './geometry.js';
import { decode } from './pose.js';

const MOST_THREADS = 4; // more gain little for a network of this size

/** How many threads the browser lets the network use; 1 on a page that is not isolated from other sites. */
export function usableThreads() {
  if (!self.crossOriginIsolated) return 1;
  return Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1));
}

export class BrowserModel {
  /**
   * @param {object} manifest of the page
   * @param {(share: number) => void} onProgress of the download, 0 to 1
   */
  constructor(manifest, onProgress) {
    this.manifest = manifest;
    this.entry = null; // of the manifest, the model loaded last
    this.ready = false;
    this.threads = usableThreads();
    this.small = document.createElement('canvas').getContext('2d', { willReadFrequently: true }); // of the detector
    this.waiting = new Map();
    this.nextId = 1;
    this.worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
    this.worker.onmessage = ({ data }) => {
      if ('progress' in data) {
        onProgress(data.progress);
        return;
      }
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) reject(new Error(data.error));
      else resolve(data);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      const error = new Error(event.message || 'the worker could not start');
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  /** Download and start a model of the manifest, the first time the detector too. */
  async load(entry) {
    const { runtime, detector } = this.manifest;
    const shared = { type: 'load', runtime, base: new URL('.', import.meta.url).href, threads: this.threads };
    this.ready = false;
    if (!this.entry) await this.ask({ ...shared, role: 'detector', entry: detector });
    await this.ask({ ...shared, role: 'pose', entry });
    this.entry = entry;
    const [height, width] = entry.input_size_hw;
    await this.runPose(new Uint8Array(3 * height * width), 1); // the first run is slow: not the visitor's
    this.ready = true;
  }

  /**
   * Find the people.
   *
   * @param {CanvasRenderingContext2D} context with the image on it
   * @returns {Promise<{box: number[], score: number}[]>} in pixels of the canvas, best score first
   */
  async detect({ canvas }) {
    const { detector } = this.manifest;
    for (const size of detector.sizes) {
      const { innerWh, inputWh } = fitImage(canvas.width, canvas.height, size, detector.cell);
      [this.small.canvas.width, this.small.canvas.height] = inputWh;
      this.small.fillRect(0, 0, ...inputWh);
      this.small.imageSmoothingQuality = 'high';
      this.small.drawImage(canvas, 0, 0, ...innerWh);
      const data = withoutAlpha(this.small.getImageData(0, 0, ...inputWh).data);
      const dims = [1, inputWh[1], inputWh[0], 3];
      const question = { type: 'run', role: 'detector', name: 'images', kind: 'uint8', data, dims };
      const { boxes, scores } = await this.ask(question, [data.buffer]);
      const found = keepPeople(boxes, scores, innerWh, [canvas.width, canvas.height], detector);
      if (found.length) return found; // else whoever fills the image may be found at a smaller size
    }
    return [];
  }

  /**
   * Find the pose in each box.
   *
   * @param {CanvasRenderingContext2D} context with the image on it
   * @param {{box: number[], score: number}[]} asked N >= 1, boxes in pixels of the canvas
   * @returns {Promise<{poses: import('./pose.js').Pose[], milliseconds: number}>}
   */
  async predict(context, asked) {
    const { entry } = this;
    const { rules } = this.manifest;
    const [height, width] = entry.input_size_hw;
    const size = 3 * height * width;
    const planes = new Uint8Array(asked.length * size);
    const crops = asked.map(({ box }) => cropOfBox(box, entry.input_size_hw, rules.crop_padding));
    crops.forEach((crop, row) => {
      const region = regionOfCrop(crop, context.canvas.width, context.canvas.height);
      if (!region) return; // stays black
      const pixels = context.getImageData(region.x, region.y, region.width, region.height);
      sampleCrop(pixels, region, crop, planes.subarray(row * size, (row + 1) * size));
    });
    const output = await this.runPose(planes, asked.length);
    return { poses: decode(output, crops, asked, entry, rules), milliseconds: output.milliseconds };
  }

  runPose(planes, count) {
    const { input, input_size_hw: sizeHw, normalization } = this.entry;
    const data = normalization ? normalize(planes, sizeHw[0] * sizeHw[1], normalization) : planes;
    const kind = normalization ? 'float32' : 'uint8';
    return this.ask({ type: 'run', role: 'pose', name: input, kind, data, dims: [count, 3, ...sizeHw] }, [data.buffer]);
  }

  ask(question, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = this.nextId++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...question }, transfer);
    });
  }
}

/** Planes of 0..255 -> float planes with the channels' mean removed and spread scaled. */
function normalize(planes, plane, { mean, std }) {
  return Float32Array.from(planes, (value, at) => {
    const channel = Math.floor(at / plane) % 3;
    return (Math.fround(value / 255) - mean[channel]) / std[channel];
  });
}
