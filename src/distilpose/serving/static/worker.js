// The network, in a thread of its own, so that the page stays awake while it computes.
//
// Messages in: {id, type: 'load', model, runtime, base, threads} and {id, type: 'run', planes, count}.
// Messages out: {id, ...answer}, {id, error} or, while a model is loading, {progress}.

let ort = null;
let session = null;
let model = null;
let before = Promise.resolve(); // one question after the other: no model may change under a running one

self.onmessage = ({ data }) => {
  before = before.then(() => answer(data));
};

async function answer(data) {
  try {
    const found = data.type === 'load' ? await load(data) : await run(data);
    self.postMessage({ id: data.id, ...found });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
}

async function load({ model: entry, runtime, base, threads }) {
  if (!ort) {
    ort = await import(new URL(runtime.script, base).href);
    ort.env.wasm.numThreads = threads;
    // Named one by one, as the files are renamed to end in .js, which every host serves as a script.
    ort.env.wasm.wasmPaths = {
      mjs: new URL(runtime.glue, base).href,
      wasm: new URL(runtime.wasm, base).href,
    };
  }
  const bytes = await download(new URL(`${entry.file}?${entry.sha256.slice(0, 12)}`, base), entry.bytes);
  await session?.release();
  session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });
  model = entry;
  await run({ planes: new Uint8Array(planeCount(1)), count: 1 }); // the first run is slow: not the visitor's
  return { ready: true };
}

async function download(address, expected) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address.pathname} cannot be loaded: the host answered ${response.status}`);
  const bytes = new Uint8Array(expected);
  let filled = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (filled + value.length > expected) break;
    bytes.set(value, filled);
    filled += value.length;
    self.postMessage({ progress: filled / expected });
  }
  if (filled !== expected) throw new Error(`${address.pathname} must have ${expected} bytes, got ${filled}: build the page again`);
  return bytes;
}

async function run({ planes, count }) {
  const start = performance.now();
  const [height, width] = model.input_size_hw;
  const shape = [count, 3, height, width];
  const input = model.normalization
    ? new ort.Tensor('float32', normalize(planes, height * width), shape)
    : new ort.Tensor('uint8', planes, shape);
  const outputs = await session.run({ [model.input]: input });
  const found = { milliseconds: performance.now() - start };
  for (const [name, tensor] of Object.entries(outputs)) found[name] = tensor.data;
  return found;
}

function planeCount(count) {
  return count * 3 * model.input_size_hw[0] * model.input_size_hw[1];
}

/** Planes of 0..255 -> float planes with the channels' mean removed and spread scaled. */
function normalize(planes, plane) {
  const { mean, std } = model.normalization;
  const values = new Float32Array(planes.length);
  for (let at = 0; at < planes.length; at++) {
    const channel = Math.floor(at / plane) % 3;
    values[at] = (Math.fround(planes[at] / 255) - mean[channel]) / std[channel];
  }
  return values;
}
