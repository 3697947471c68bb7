// The people of the image: boxes from the detector or from the visitor's hand, in videos moved on with the poses.

import { overlap } from './detector.js';
import { boxAround, similarity } from './pose.js';

const DETECT_EVERY = 10; // frames of a video; between them boxes follow the poses
const SAME_PERSON = 0.3; // least overlap of a found box with that of somebody known

export class People {
  /** @param {object} rules of the manifest */
  constructor(rules) {
    this.rules = rules;
    this.reset(1, 1);
  }

  /** Another image: nobody is known yet. */
  reset(width, height) {
    this.frame = [width, height];
    this.list = [];
    this.nextId = 1;
    this.search();
  }

  /** Let the detector look again, from now on. */
  search() {
    this.automatic = true; // until the visitor takes the boxes in hand
    this.wait = 0; // frames until the detector looks next
  }

  /** Whether the detector should look at this frame. */
  wantDetector(isVideo) {
    if (isVideo && this.wait > 0) this.wait--;
    return this.automatic && this.wait === 0;
  }

  /**
   * Take over what the detector found: known people get their new boxes, others come in. While nobody is known, the
   * whole frame counts as one person.
   *
   * @param {{box: number[], score: number}[]} found
   */
  update(found) {
    this.wait = DETECT_EVERY;
    if (!this.automatic) return; // the visitor was faster
    const known = this.list.filter((person) => !person.whole);
    const free = new Set(known);
    for (const { box, score } of found) {
      const near = [...free].map((person) => ({ person, iou: overlap(person.box, box) })).sort((a, b) => b.iou - a.iou)[0];
      if (near?.iou > SAME_PERSON) {
        free.delete(near.person);
        Object.assign(near.person, { box, score });
      } else known.push(this.create(box, score));
    }
    this.list = known;
    if (!this.list.length) this.list = [this.createWhole()];
  }

  create(box, score = 1, whole = false) {
    return { id: this.nextId++, box, score, whole };
  }

  /** The person that the whole frame counts as. */
  createWhole() {
    return this.create([0, 0, ...this.frame], 1, true);
  }

  /** Whether the detector has found nobody, and the visitor has drawn no box. */
  get nobodyFound() {
    return this.automatic && this.list.every((person) => person.whole);
  }

  /** One person, who fills the frame. */
  takeWhole() {
    this.automatic = false;
    this.list = [this.createWhole()];
  }

  /** A box drawn by the visitor; it takes the place of the whole frame. */
  add(box) {
    this.automatic = false;
    const person = this.create(box);
    this.list = [...this.list.filter((other) => !other.whole), person];
    return person;
  }

  change(person, box) {
    this.automatic = false;
    Object.assign(person, { box, score: 1, whole: false });
  }

  /** The visitor takes a box away; without anybody left, the whole frame is looked at. */
  remove(person) {
    this.list = this.list.filter((other) => other !== person);
    if (this.list.length) this.automatic = false;
    else this.takeWhole();
  }

  /** The boxes to look into now; `follow` wants this list back. */
  ask() {
    return this.list.map((person) => ({ person, box: person.box, score: person.score }));
  }

  /**
   * Move each box to where the last pose leads, unless the visitor has changed it since.
   *
   * @param {{person: object, box: number[]}[]} asked
   * @param {import('./pose.js').Pose[]} poses in the same order
   */
  follow(asked, poses, skeleton) {
    let lost = false;
    const kept = [];
    asked.forEach(({ person, box }, row) => {
      const pose = poses[row];
      if (!pose || !this.list.includes(person) || person.box !== box) return;
      const double = kept.some((other) => similarity(other, pose, skeleton, this.rules) > this.rules.duplicate_oks);
      if (double || (pose.poseScore < this.rules.least_pose_score && !person.whole)) {
        lost ||= !double;
        this.list = this.list.filter((other) => other !== person);
      } else if (pose.poseScore >= this.rules.least_pose_score) {
        kept.push(pose);
        person.whole = false;
        person.box = boxAround(pose, this.rules);
      }
    });
    if (lost) this.wait = 0;
    if (!this.list.length) this.list = [this.createWhole()];
  }
}
