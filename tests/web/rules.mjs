// The page's rules, outside of a browser: cases as JSON in, answers as JSON out.
import { readFileSync } from 'node:fs';

const [folder] = process.argv.slice(2);
const detector = await import(`${folder}/detector.js`);
const geometry = await import(`${folder}/geometry.js`);
const pose = await import(`${folder}/pose.js`);
const draw = await import(`${folder}/draw.js`);
const results = await import(`${folder}/results.js`);
const { image, boxes, model, rules, output, people, sizes, finds, detectorRules, names } = JSON.parse(readFileSync(0, 'utf8'));

function cut(box) {
  const crop = geometry.cropOfBox(box, model.input_size_hw, rules.crop_padding);
  const planes = new Uint8Array(3 * model.input_size_hw[0] * model.input_size_hw[1]);
  const region = geometry.regionOfCrop(crop, image.width, image.height);
  if (region) geometry.sampleCrop(part(region), region, crop, planes);
  return { crop, planes: Buffer.from(planes).toString('base64') };
}

/** What getImageData gives of a region. */
function part({ x, y, width, height }) {
  const all = Buffer.from(image.rgba, 'base64');
  const rows = [];
  for (let row = y; row < y + height; row++) {
    rows.push(all.subarray(4 * (row * image.width + x), 4 * (row * image.width + x + width)));
  }
  return { data: Uint8ClampedArray.from(Buffer.concat(rows)), width, height };
}

const cuts = boxes.map(cut);
const typed = Object.fromEntries(Object.entries(output).map(([name, values]) => [name, Float32Array.from(values)]));
const poses = pose.decode(typed, cuts.map(({ crop }) => crop), boxes.map((box) => ({ box, score: 1 })), model, rules);

/** What the page saves of an image, or of the frames of a video at these times in seconds. */
function saved(name, times) {
  const recorder = new results.Recorder();
  for (const time of times) recorder.add({ name, scale: 1 }, time, poses, poses.map((_, row) => row + 1));
  return recorder.toJson();
}

const half = poses.map((one) => results.toSource(one, 0.5));
const [first, second] = people;
process.stdout.write(
  JSON.stringify({
    planes: cuts.map(({ planes }) => planes),
    poses,
    // As text: JSON.parse would round large ids.
    rows: saved('a.jpg', [null]),
    empty: saved('a.jpg', []),
    named: names.map((name) => saved(name, [null])),
    frames: saved('walk.mp4', [0, 1, 0.5, 1]),
    thereAndBack: half.map((one) => results.toCanvas(one, 0.5).xy),
    similarity: pose.similarity(first, second, model.skeleton, rules),
    around: people.map((one) => pose.boxAround(one, rules)),
    fits: sizes.map(([width, height]) => detector.fitImage(width, height, detectorRules.sizes[0], detectorRules.cell)),
    kept: detector.keepPeople(Float32Array.from(finds.boxes.flat()), Float32Array.from(finds.scores), [208, 416], [500, 1000], detectorRules),
    drawing: { score: draw.SCORE_RAMP, sigma: draw.SIGMA_RAMP, width: draw.WIDTH_SHARE },
  }),
);
