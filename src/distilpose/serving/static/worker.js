// The networks, in a thread of their own, so that the page stays awake while they compute.
//
// Messages in: {id, type: 'load', role, entry, runtime, base, threads} and {id, type: 'run', role, name, kind, data, dims}.
// Messages out: {id, ...outputs}, {id, error} or, while a network is loading, {progress}.

let ort = null;
const sessions = new Map(); // by role
let before = Promise.resolve(); // one question after the other: no network may change under a running one

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

async function load({ role, entry, runtime, base, threads }) {
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
  await sessions.get(role)?.release();
  const options = { executionProviders: ['wasm'], graphOptimizationLevel: 'all' };
  sessions.set(role, await ort.InferenceSession.create(bytes, options));
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
    filled += value.length;
    if (filled > expected) break;
    bytes.set(value, filled - value.length);
    self.postMessage({ progress: filled / expected });
  }
  if (filled !== expected) throw new Error(`${address.pathname} must have ${expected} bytes, got ${filled}: build the page again`);
  return bytes;
}

async function run({ role, name, kind, data, dims }) {
  const start = performance.now();
  const outputs = await sessions.get(role).run({ [name]: new ort.Tensor(kind, data, dims) });
  const found = { milliseconds: performance.now() - start };
  for (const [output, tensor] of Object.entries(outputs)) found[output] = tensor.data;
  return found;
}
