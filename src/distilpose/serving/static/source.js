// Where images come from: an image file, a video file, a camera. All look alike to the rest of the page.

const MAX_PIXELS = 16_000_000; // phones refuse larger canvases; larger images are scaled down to this

/**
 * @typedef {object} Source
 * @property {'image' | 'video' | 'camera'} kind
 * @property {string} name
 * @property {number} width of the canvas that shows it, in pixels
 * @property {number} height
 * @property {number} scale canvas pixels per pixel of the source, at most 1
 * @property {File | null} file
 * @property {HTMLVideoElement | null} video of a video or camera
 * @property {(context: CanvasRenderingContext2D) => number | null} draw the newest frame; returns its time in seconds
 * @property {() => void} close
 */

/** @returns {Promise<Source>} */
export async function openFile(file) {
  return file.type.startsWith('video/') ? openVideo(file) : openImage(file);
}

async function openImage(file) {
  let bitmap;
  try {
    // Pixels as they are in the file: distilpose too ignores color profiles and obeys the orientation.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  } catch {
    throw new Error(
      `${file.name} is not an image that this browser can read: choose a JPEG, PNG, WebP, AVIF, GIF or BMP file, ` +
        'or a video (MP4, WebM)',
    );
  }
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const [width, height] = [Math.round(bitmap.width * scale), Math.round(bitmap.height * scale)];
  const draw = (context) => {
    context.fillStyle = 'white'; // behind transparent pixels
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    return null;
  };
  const close = () => bitmap.close();
  return { kind: 'image', name: file.name, width, height, scale: width / bitmap.width, file, video: null, draw, close };
}

async function openVideo(file) {
  const address = URL.createObjectURL(file);
  const video = newVideo();
  video.src = address;
  try {
    await once(video, 'loadeddata');
  } catch {
    URL.revokeObjectURL(address);
    throw new Error(`${file.name} is not a video that this browser can play: try MP4 with H.264, or WebM`);
  }
  const close = () => {
    video.pause();
    video.removeAttribute('src');
    video.load();
    URL.revokeObjectURL(address);
  };
  return ofVideo('video', file.name, video, file, close, () => video.currentTime);
}

/**
 * @param {'user' | 'environment'} facing which camera of a phone
 * @returns {Promise<Source>}
 */
export async function openCamera(facing) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error('browsers allow the camera only on pages from https:// or from localhost');
  }
  let stream;
  try {
    const size = { width: { ideal: 1280 }, height: { ideal: 720 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, ...size }, audio: false });
  } catch (error) {
    const reasons = {
      NotAllowedError: 'access was denied; reload the page to be asked again',
      NotFoundError: 'no camera was found',
      NotReadableError: 'another program is using it',
    };
    throw new Error(`the camera cannot be used: ${reasons[error.name] ?? error.message}`);
  }
  const video = newVideo();
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  };
  try {
    video.srcObject = stream;
    await once(video, 'loadeddata');
    await video.play();
  } catch (error) {
    close(); // else its light stays on
    throw new Error(`the camera gives no image: ${error?.message || 'unplug it and try again'}`);
  }
  const start = performance.now();
  return ofVideo('camera', 'camera', video, null, close, () => (performance.now() - start) / 1000);
}

function ofVideo(kind, name, video, file, close, now) {
  const [width, height] = [video.videoWidth, video.videoHeight];
  if (!width || !height) {
    close();
    throw new Error(`${name} has no images: choose another video`);
  }
  const draw = (context) => {
    context.drawImage(video, 0, 0, width, height);
    return now();
  };
  return { kind, name, width, height, scale: 1, file, video, draw, close };
}

function newVideo() {
  return Object.assign(document.createElement('video'), { muted: true, playsInline: true, preload: 'auto' });
}

function once(target, event) {
  return new Promise((resolve, reject) => {
    target.addEventListener(event, resolve, { once: true });
    target.addEventListener('error', () => reject(target.error), { once: true });
  });
}

/** Call back once, when the video shows its next frame. */
export function onNextFrame(video, callback) {
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(callback);
  else requestAnimationFrame(callback);
}
