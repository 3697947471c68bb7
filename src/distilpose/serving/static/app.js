// The page: a source of images, people in boxes, a network here or on the server, and what comes out.

import { BoxEditor } from './box_editor.js';
import { Stage } from './draw.js';
import { BrowserModel } from './model.js';
import { Panel, clock, part } from './panel.js';
import { People } from './people.js';
import { Recorder, blobOf, download, drawnImage, toCanvas } from './results.js';
import { ServerError, predictOnServer } from './server.js';
import { onNextFrame, openCamera, openFile } from './source.js';

const BUILD = 'make web';
const NOBODY = 'Nobody was found: the whole frame counts as one person. You can draw boxes.';
const COMPARE_HINT = part('difference').textContent;
const TOOLS = ['close', 'find', 'new-box', 'whole', 'fit']; // buttons that need an image

const stage = new Stage(part('stage'), part('canvas'), part('boxes'));
// Two frames in their own size, which change places: the one that is being looked at, and the one whose poses are known.
let [looked, shown] = [0, 1].map(() => document.createElement('canvas').getContext('2d', { willReadFrequently: true }));
let recorder = new Recorder();
const panel = new Panel();

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
  model = new BrowserModel(manifest, (share) => say(`Loading the networks … ${10 * Math.round(10 * share)} %`));
  panel.tellThreads(model.threads);
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
    openFirst(part('file').files);
    part('file').value = ''; // so that the same file can be opened again
  });
  on('camera', 'click', () => open(() => openCamera(part('facing').value)));
  on('facing', 'change', () => source?.kind === 'camera' && open(() => openCamera(part('facing').value)));
  on('close', 'click', close);
  on('model', 'change', loadModel);
  on('where', 'change', () => {
    part('difference').textContent = COMPARE_HINT;
    pump();
  });
  on('key-form', 'submit', (event) => event.preventDefault());
  on('play', 'click', () => (source.video.paused ? source.video.play() : source.video.pause()));
  on('seek', 'input', () => (source.video.currentTime = Number(part('seek').value)));
  on('new-box', 'click', () => editor.addInTheMiddle());
  on('find', 'click', () => {
    people.search();
    pump();
  });
  on('whole', 'click', () => {
    people.takeWhole();
    editor.changed();
  });
  on('fit', 'click', () => {
    fitting = true;
    pump();
  });
  for (const id of ['show-skeleton', 'show-ellipses', 'show-boxes']) on(id, 'change', paint);
  on('save-json', 'click', () => download(new Blob([recorder.toJson()], { type: 'application/json' }), 'predictions.json'));
  on('save-png', 'click', async () => {
    const name = source.kind === 'image' ? source.name.replace(/\.[^.]*$/, '') : source.kind;
    download(await drawnImage(view()), `${name}_poses.png`);
  });
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
    openFirst(event.dataTransfer.files);
  });
  document.addEventListener('paste', (event) => openFirst(event.clipboardData.files));
}

function openFirst([file]) {
  if (file) open(() => openFile(file));
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
  for (const id of TOOLS) part(id).disabled = false;
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
  followed = null;
  recorder = new Recorder();
  stage.clear();
  if (people) people.list = [];
  editor?.update();
  part('stage').classList.remove('opened');
  for (const id of [...TOOLS, 'play', 'seek', 'save-json', 'save-png']) part(id).disabled = true;
  panel.clear();
  say('');
}

function connectVideo(video) {
  const [play, seek] = [part('play'), part('seek')];
  const tell = () => {
    if (source?.video !== video) return;
    play.textContent = video.paused ? 'Play' : 'Pause';
    seek.value = String(video.currentTime);
    part('clock').textContent = `${clock(video.currentTime)} / ${clock(video.duration)}`;
    seek.setAttribute('aria-valuetext', part('clock').textContent);
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
  const { canvas } = looked;
  const { width, height } = from;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height }); // which also clears it
  const time = from.draw(looked);
  if (people.wantDetector(from.video !== null)) {
    const found = await model.detect(looked);
    if (source !== from) return; // closed meanwhile
    people.update(found);
    if (people.nobodyFound) say(NOBODY);
    else if (part('status').textContent === NOBODY) say('');
  }
  const asked = people.ask();
  const answer = await ask(from, asked);
  if (source !== from) return;
  poses = answer.poses;
  const ids = asked.map(({ person }) => person.id);
  recorder.add(from, time, poses, ids);
  [looked, shown] = [shown, looked];
  const next = from.video && time !== followed; // edited boxes of a video that stands still stay where they are
  if (next || fitting) {
    people.follow(asked, poses, model.entry.skeleton);
    followed = time;
    again ||= fitting;
    fitting = false;
  }
  editor.update();
  paint();
  panel.measure(from, begun, answer.milliseconds);
  panel.tellPoses(from, poses, model.entry.skeleton);
  for (const id of ['save-json', 'save-png']) part(id).disabled = false;
}

/** The poses in the boxes, from here or from the server; the network's own milliseconds. */
async function ask(from, asked) {
  const where = part('where').value;
  if (where === 'browser') return model.predict(looked, asked);
  const fromServer = askServer(from, asked, where);
  if (where === 'server') return fromServer;
  const [here, there] = await Promise.all([model.predict(looked, asked), fromServer]);
  panel.tellDifference(here, there);
  return here;
}

async function askServer(from, asked, where) {
  const whole = from.kind === 'image';
  const kind = where === 'both' ? 'image/png' : 'image/jpeg'; // a comparison is of the same pixels
  const blob = whole ? from.file : await blobOf(looked.canvas, kind, 0.95);
  const scale = whole ? from.scale : 1;
  const sent = asked.map(({ box }) => box.map((value) => value / scale));
  const { poses: found, milliseconds } = await predictOnServer(blob, from.name, sent, part('key').value);
  const poses = found.map((pose, row) => {
    const { box, score } = asked[row];
    return { ...toCanvas(pose, scale), box, boxScore: score, poseScore: score * pose.poseScore };
  });
  return { poses, milliseconds };
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
