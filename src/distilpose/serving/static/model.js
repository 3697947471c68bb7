// The page's side of the network: asks the worker, one question at a time.

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

  /** Download and start a model of the manifest. */
  async load(entry) {
    const { runtime } = this.manifest;
    const base = new URL('.', import.meta.url).href;
    this.ready = false;
    await this.ask({ type: 'load', model: entry, runtime, base, threads: this.threads });
    this.entry = entry;
    this.ready = true;
  }

  /**
   * Find the pose in each box.
   *
   * @param {CanvasRenderingContext2D} context with the image on it
   * @param {number[][]} boxes N >= 1 in pixels of the canvas
   * @returns {Promise<{poses: import('./pose.js').Pose[], milliseconds: number}>}
   */
  async predict(context, boxes) {
    const { entry } = this;
    const { rules } = this.manifest;
    const [height, width] = entry.input_size_hw;
    const size = 3 * height * width;
    const planes = new Uint8Array(boxes.length * size);
    const crops = boxes.map((box) => cropOfBox(box, entry.input_size_hw, rules.crop_padding));
    crops.forEach((crop, row) => {
      const region = regionOfCrop(crop, context.canvas.width, context.canvas.height);
      if (!region) return; // stays black
      const pixels = context.getImageData(region.x, region.y, region.width, region.height);
      sampleCrop(pixels, region, crop, planes.subarray(row * size, (row + 1) * size));
    });
    const output = await this.ask({ type: 'run', planes, count: boxes.length }, [planes.buffer]);
    return { poses: decode(output, crops, boxes, entry, rules), milliseconds: output.milliseconds };
  }

  ask(question, transfer = []) {
    return new Promise((resolve, reject) => {
      const id = this.nextId++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...question }, transfer);
    });
  }
}
