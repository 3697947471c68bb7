// Who is followed: a box for each person, from the visitor's hand at first, then from frame to frame by the pose.

import { similarity } from './pose.js';
import { anchorAt, expectedBox, sureCount, weights } from './tracking.js';

export class People {
  /** @param {object} rules of the manifest */
  constructor(rules) {
    this.rules = rules;
    this.list = [];
    this.nextId = 1;
    this.frame = [1, 1];
  }

  /** One person, who fills the frame. */
  reset(width, height) {
    this.frame = [width, height];
    this.list = [];
    this.nextId = 1;
    this.push([0, 0, width, height], true);
  }

  /** A box drawn by the visitor; the first one takes the place of the whole frame. */
  add(box) {
    this.list = this.list.filter((person) => !person.whole);
    return this.push(box, false);
  }

  change(person, box) {
    person.box = box;
    person.whole = false;
    person.anchor = null;
  }

  /** Without anybody left, the whole frame is looked at. */
  remove(person) {
    this.list = this.list.filter((other) => other !== person);
    if (!this.list.length) this.push([0, 0, ...this.frame], true);
  }

  push(box, whole) {
    const person = { id: this.nextId++, box, whole, anchor: null };
    this.list.push(person);
    return person;
  }

  /** The boxes to look into now; `follow` wants this list back. */
  ask() {
    return this.list.map((person) => ({ person, box: person.box }));
  }

  /**
   * Move each box to where the last pose leads, unless the visitor has changed it since.
   *
   * @param {{person: object, box: number[]}[]} asked
   * @param {import('./pose.js').Pose[]} poses in the same order
   * @returns {boolean} whether somebody was lost
   */
  follow(asked, poses, skeleton) {
    let lost = false;
    const kept = [];
    asked.forEach(({ person, box }, row) => {
      const pose = poses[row];
      if (!pose || !this.list.includes(person) || person.box !== box) return;
      const double = kept.some((other) => similarity(other, pose, skeleton, this.rules) > this.rules.duplicate_oks);
      if (double) {
        this.list = this.list.filter((other) => other !== person);
      } else if (pose.poseScore < this.rules.least_pose_score) {
        lost ||= person.anchor !== null;
        if (person.anchor || this.list.length > 1) this.remove(person);
      } else {
        kept.push(pose);
        person.whole = false;
        if (!person.anchor || this.isSurer(pose, person.anchor)) person.anchor = anchorAt(pose, this.rules);
        person.box = expectedBox(person.anchor, pose, this.rules);
      }
    });
    return lost;
  }

  /** More of the body is sure than ever before: this is how the person is remembered from now on. */
  isSurer(pose, anchor) {
    return sureCount(weights(pose), this.rules) > sureCount(anchor.weight, this.rules);
  }
}
