// The page: a source of images, people in boxes, a network here or on the server, and what comes out.

import { BoxEditor } from './box_editor.js';
import { BrowserModel } from './model.js';
import { People } from './people.js';
import { Recorder, blobOf, download, drawnImage, toCanvas, toSource } from './results.js';
import { ServerError, difference, predictOnServer } from './server.js';
import { onNextFrame, openCamera, openFile } from './source.js';
import { Stage } from './stage.js';

const BUILD = 'make web';
const SMOOTHING = 0.2; // share of the newest frame in the running means of rate and latency
const part = (id) => document.getElementById(id);

const stage = new Stage(part('stage'), part('canvas'), part('boxes'));
// Two frames in their own size, which change places: the one that is being looked at, and the one whose poses are known.
let [looked, shown] = [0, 1].map(() => document.createElement('canvas').getContext('2d', { willReadFrequently: true }));
const recorder = new Recorder();

let manifest = null;
let model = null;
let people = null;
let editor = null;
let source = null;
let poses = [];
let openings = 0;
let busy = false;
let again = false;
let fitting = false;
let rate = null;
let latency = null;
let lastFrame = null;
let followed = null; // time of the last frame after which the boxes moved on

start().catch((error) => say(error.message, true));

async function start() {
  connect();
  const response = await fetch('manifest.json', { cache: 'no-cache' }).catch(() => null);
  if (!response?.ok) {
    sayHowToBuild('The network and its runtime are not part of this page yet');
    return;
  }
  manifest = await response.json();
  people = new People(manifest.rules);
  editor = new BoxEditor(part('boxes'), people, pump);
  part('model').replaceChildren(...manifest.models.map((entry, row) => new Option(entry.title, String(row))));
  part('model').disabled = false;
  model = new BrowserModel(manifest, (share) => say(`Loading the network … ${Math.round(100 * share)} %`));
  tellThreads();
  await loadModel();
}

async function loadModel() {
  const entry = manifest.models[Number(part('model').value)];
  part('model').disabled = true;
  try {
    await model.load(entry);
    say(source ? '' : 'Ready. Open an image or a video, or use the camera.');
    pump();
  } catch (error) {
    sayHowToBuild(`The network cannot be started (${error.message})`);
  } finally {
    part('model').disabled = false;
  }
}

function connect() {
  const on = (id, event, action) => part(id).addEventListener(event, action);
  on('open', 'click', () => part('file').click());
  on('file', 'change', () => {
    const [file] = part('file').files;
    part('file').value = ''; // so that the same file can be opened again
    if (file) open(() => openFile(file));
  });
  on('camera', 'click', () => open(() => openCamera(part('facing').value)));
  on('facing', 'change', () => source?.kind === 'camera' && open(() => openCamera(part('facing').value)));
  on('close', 'click', close);
  on('model', 'change', loadModel);
  on('where', 'change', () => {
    part('difference').textContent = 'Compare to see how far the two lie apart.';
    pump();
  });
  on('key-form', 'submit', (event) => event.preventDefault());
  on('play', 'click', () => (source.video.paused ? source.video.play() : source.video.pause()));
  on('seek', 'input', () => (source.video.currentTime = Number(part('seek').value)));
  on('new-box', 'click', () => editor.addInTheMiddle());
  on('whole', 'click', () => {
    people.reset(source.width, source.height);
    editor.changed();
  });
  on('fit', 'click', () => {
    fitting = true;
    pump();
  });
  for (const id of ['show-skeleton', 'show-ellipses', 'show-boxes']) on(id, 'change', paint);
  on('save-json', 'click', () => download(new Blob([recorder.toJson()], { type: 'application/json' }), 'predictions.json'));
  on('save-png', 'click', saveImage);
  connectDrop();
}

function connectDrop() {
  const area = part('stage');
  const mark = (on) => area.classList.toggle('target', on);
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener('dragleave', (event) => event.relatedTarget || mark(false));
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    mark(false);
    const [file] = event.dataTransfer.files;
    if (file) open(() => openFile(file));
  });
  document.addEventListener('paste', (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(() => openFile(file));
  });
}

async function open(opening) {
  if (!manifest) return;
  close();
  say('Opening …');
  const turn = ++openings;
  let opened;
  try {
    opened = await opening();
  } catch (error) {
    if (turn === openings) say(`${error.message}.`, true);
    return;
  }
  if (turn !== openings) {
    opened.close(); // something else was opened meanwhile
    return;
  }
  source = opened;
  people.reset(source.width, source.height);
  part('stage').classList.add('opened');
  for (const id of ['close', 'new-box', 'whole', 'fit']) part(id).disabled = false;
  if (source.kind === 'video') connectVideo(source.video);
  if (source.video) {
    part('stage').append(source.video);
    followFrames(source.video);
  }
  say('');
  pump();
}

function close() {
  source?.close();
  source?.video?.remove();
  source = null;
  poses = [];
  rate = latency = lastFrame = followed = null;
  recorder.clear();
  stage.clear();
  if (people) people.list = [];
  editor?.update();
  part('stage').classList.remove('opened');
  part('canvas').setAttribute('aria-label', 'Nothing opened yet');
  for (const id of ['close', 'new-box', 'whole', 'fit', 'play', 'seek', 'save-json', 'save-png']) part(id).disabled = true;
  for (const id of ['rate', 'latency', 'network', 'score', 'clock']) part(id).textContent = '–';
  part('play').textContent = 'Play';
  part('seek').value = '0';
  part('keypoints').replaceChildren();
  say('');
}

function connectVideo(video) {
  const [play, seek] = [part('play'), part('seek')];
  const tell = () => {
    if (source?.video !== video) return;
    play.textContent = video.paused ? 'Play' : 'Pause';
    seek.value = String(video.currentTime);
    part('clock').textContent = `${clock(video.currentTime)} / ${clock(video.duration)}`;
  };
  for (const event of ['play', 'pause', 'ended', 'timeupdate', 'seeked']) video.addEventListener(event, tell);
  play.disabled = false;
  seek.disabled = !Number.isFinite(video.duration);
  if (!seek.disabled) seek.max = String(video.duration);
  tell();
}

function followFrames(video) {
  onNextFrame(video, () => {
    if (source?.video !== video) return;
    pump();
    followFrames(video);
  });
}

/** Look at the newest frame; what comes while that lasts is looked at once more, afterwards. */
function pump() {
  if (!source || !model?.ready) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  step()
    .catch(failed)
    .finally(() => {
      busy = false;
      if (!again) return;
      again = false;
      pump();
    });
}

async function step() {
  const begun = performance.now();
  const from = source;
  fitTo(looked.canvas, from);
  const time = from.draw(looked);
  const asked = people.ask();
  const answer = await ask(from, asked.map(({ box }) => box));
  if (source !== from) return; // closed meanwhile
  poses = answer.poses;
  const ids = asked.map(({ person }) => person.id);
  recorder.add(from, time, poses, ids);
  [looked, shown] = [shown, looked];
  const next = from.video && time !== followed; // edited boxes of a video that stands still stay where they are
  if (next || fitting) {
    const lost = people.follow(asked, poses, model.entry.skeleton);
    followed = time;
    if (from.video) say(lost ? 'A pose fell apart; looking at the whole frame again.' : '');
    again ||= fitting;
    fitting = false;
  }
  editor.update();
  paint();
  measure(from, begun, answer.milliseconds);
  tellPoses();
}

/** The poses in the boxes, from here or from the server; the network's own milliseconds. */
async function ask(from, boxes) {
  const where = part('where').value;
  if (where === 'browser') return model.predict(looked, boxes);
  const fromServer = askServer(from, boxes, where);
  if (where === 'server') return fromServer;
  const [here, there] = await Promise.all([model.predict(looked, boxes), fromServer]);
  tellDifference(here, there);
  return here;
}

async function askServer(from, boxes, where) {
  const whole = from.kind === 'image';
  const kind = where === 'both' ? 'image/png' : 'image/jpeg'; // a comparison is of the same pixels
  const blob = whole ? from.file : await blobOf(looked.canvas, kind, 0.95);
  const scale = whole ? from.scale : 1;
  const sent = boxes.map((box) => box.map((value) => value / scale));
  const { poses: found, milliseconds } = await predictOnServer(blob, from.name, sent, part('key').value);
  return { poses: found.map((pose, row) => ({ ...toCanvas(pose, scale), box: boxes[row] })), milliseconds };
}

function fitTo(canvas, { width, height }) {
  if (canvas.width === width && canvas.height === height) return; // setting it would also clear it
  canvas.width = width;
  canvas.height = height;
}

function failed(error) {
  fitting = false;
  say(`${error.message}.`, true);
  if (!(error instanceof ServerError)) return;
  part('where').value = 'browser';
  part('difference').textContent = `On the server: ${error.message}. Now in this browser.`;
  if (!source?.video) pump();
}

function paint() {
  part('stage').classList.toggle('no-boxes', !part('show-boxes').checked);
  if (source && poses.length) stage.show(view());
}

function view() {
  return {
    image: shown.canvas,
    poses: part('show-skeleton').checked ? poses : [],
    skeleton: model.entry.skeleton,
    colors: manifest.side_colors,
    ellipses: part('show-ellipses').checked,
  };
}

async function saveImage() {
  const name = source.kind === 'image' ? source.name.replace(/\.[^.]*$/, '') : source.kind;
  download(await drawnImage(view()), `${name}_poses.png`);
}

function measure(from, begun, milliseconds) {
  const now = performance.now();
  const mean = (before, value) => (before === null ? value : before + SMOOTHING * (value - before));
  latency = mean(from.video ? latency : null, now - begun);
  const moving = from.video !== null && !from.video.paused;
  if (moving && lastFrame !== null) rate = mean(rate, now - lastFrame);
  lastFrame = moving ? now : null;
  part('latency').textContent = `${latency.toFixed(0)} ms`;
  part('network').textContent = `${milliseconds.toFixed(0)} ms`;
  part('rate').textContent = rate === null ? '–' : (1000 / rate).toFixed(1);
}

function tellPoses() {
  const scores = poses.map((pose) => pose.poseScore.toFixed(2)).join(', ');
  part('score').textContent = scores.length > 24 ? `${scores.slice(0, 23)}…` : scores || '–';
  const who = poses.length === 1 ? '1 person' : `${poses.length} people`;
  part('canvas').setAttribute('aria-label', `${source.name}: ${who}, pose score ${scores}`);
  for (const id of ['save-json', 'save-png']) part(id).disabled = false;
  const first = poses[0] && toSource(poses[0], source.scale);
  const names = model.entry.skeleton.keypoint_names;
  part('keypoints').replaceChildren(
    ...(first?.xy ?? []).map(([x, y], k) => {
      const row = document.createElement('tr');
      const score = first.rawScore ? first.rawScore[k].toFixed(2) : '–';
      [names[k].replaceAll('_', ' '), x.toFixed(1), y.toFixed(1), score].forEach((text) => {
        row.insertCell().textContent = text;
      });
      return row;
    }),
  );
}

function tellThreads() {
  const { threads } = model;
  if (self.crossOriginIsolated) {
    part('threads').textContent = `WebAssembly, ${threads} ${threads === 1 ? 'thread' : 'threads'}.`;
    return;
  }
  part('threads').textContent =
    'WebAssembly, 1 thread: this host does not isolate the page (headers COOP and COEP), so the browser allows no more.';
}

function tellDifference(here, there) {
  const apart = difference(here.poses, there.poses);
  part('difference').textContent = apart
    ? `Largest difference ${apart.largest.toFixed(3)} px, mean ${apart.mean.toFixed(3)} px. ` +
      `Here ${here.milliseconds.toFixed(0)} ms, server ${there.milliseconds.toFixed(0)} ms.`
    : 'The server found nobody to compare with.';
}

function say(text, bad = false) {
  const status = part('status');
  if (status.textContent === text) return; // not read out again
  status.classList.toggle('bad', bad);
  status.textContent = text;
}

function sayHowToBuild(reason) {
  say(`${reason}. In a clone of distilpose, run `, true);
  const command = document.createElement('code');
  command.textContent = BUILD;
  part('status').append(command, ' (needs Node.js), then reload this page.');
}

function clock(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`;
}
