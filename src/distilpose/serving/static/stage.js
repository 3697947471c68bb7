// The image with its people, as large as the page has room for.

import { drawPose } from './draw.js';

export class Stage {
  /**
   * @param {HTMLElement} element that keeps its size whatever is shown
   * @param {HTMLCanvasElement} canvas fills the element
   * @param {HTMLElement} layer of the boxes, laid exactly over the image
   */
  constructor(element, canvas, layer) {
    this.element = element;
    this.canvas = canvas;
    this.layer = layer;
    this.shown = null;
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
    const { image, poses, skeleton, colors, ellipses } = this.shown;
    const { clientWidth, clientHeight } = this.element;
    const density = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(clientWidth * density), Math.round(clientHeight * density)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const scale = Math.min(width / image.width, height / image.height);
    const place = { scale, x: (width - scale * image.width) / 2, y: (height - scale * image.height) / 2 };
    const context = this.canvas.getContext('2d');
    context.clearRect(0, 0, width, height);
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, place.x, place.y, scale * image.width, scale * image.height);
    for (const pose of poses) drawPose(context, pose, skeleton, colors, place, ellipses);
    Object.assign(this.layer.style, {
      left: `${place.x / density}px`,
      top: `${place.y / density}px`,
      width: `${(scale * image.width) / density}px`,
      height: `${(scale * image.height) / density}px`,
    });
  }
}
