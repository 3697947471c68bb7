// Boxes under the visitor's hands: mouse, touch and keyboard.
//
// Each box is an element of its own over the image, so that it takes the focus, has a name, and on a touch screen the
// page still scrolls beside it.

const STEP = 0.01; // of the frame's longer side, per press of an arrow key
const LEAST = 0.02; // of the frame's longer side, size of a box

export class BoxEditor {
  /**
   * @param {HTMLElement} layer lies exactly over the image
   * @param {import('./people.js').People} people
   * @param {() => void} onChange the visitor has changed the boxes
   */
  constructor(layer, people, onChange) {
    Object.assign(this, { layer, people, onChange, elements: new Map(), held: null });
    layer.addEventListener('pointerdown', (event) => this.startNew(event));
  }

  /** Bring the elements up to date with the people. */
  update() {
    const [width, height] = this.people.frame;
    for (const [person, element] of this.elements) {
      if (this.people.list.includes(person)) continue;
      element.remove();
      this.elements.delete(person);
    }
    for (const person of this.people.list) {
      const element = this.elements.get(person) ?? this.create(person);
      const [x1, y1, x2, y2] = person.box;
      element.style.left = `${(100 * x1) / width}%`;
      element.style.top = `${(100 * y1) / height}%`;
      element.style.width = `${(100 * (x2 - x1)) / width}%`;
      element.style.height = `${(100 * (y2 - y1)) / height}%`;
      element.classList.toggle('whole', person.whole);
      const place = person.whole
        ? 'the whole frame'
        : `left ${Math.round(x1)}, top ${Math.round(y1)}, width ${Math.round(x2 - x1)}, height ${Math.round(y2 - y1)}`;
      element.setAttribute('aria-label', `Box of person ${person.id}: ${place}`);
      element.firstChild.textContent = String(person.id);
    }
  }

  create(person) {
    const element = document.createElement('div');
    Object.assign(element, { className: 'box', tabIndex: 0, role: 'group', ariaRoleDescription: 'movable box' });
    element.setAttribute('aria-describedby', 'box-help');
    element.innerHTML = '<span class="tag"></span><i class="corner"></i>';
    element.addEventListener('keydown', (event) => this.press(event, person));
    element.addEventListener('pointerdown', (event) => this.hold(event, person));
    this.layer.append(element);
    this.elements.set(person, element);
    return element;
  }

  /** A box of half the frame in its middle, with the focus. */
  addInTheMiddle() {
    const [width, height] = this.people.frame;
    const person = this.people.add([width / 4, height / 8, (3 * width) / 4, (7 * height) / 8]);
    this.changed();
    this.elements.get(person).focus();
  }

  press(event, person) {
    const step = STEP * Math.max(...this.people.frame);
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === 'Delete' || event.key === 'Backspace') {
      this.people.remove(person);
      this.layer.closest('[tabindex]')?.focus();
    } else if (ways[event.key]) {
      const [dx, dy] = ways[event.key];
      this.people.change(person, event.shiftKey ? this.resized(person.box, dx, dy) : this.moved(person.box, dx, dy));
    } else return;
    event.preventDefault();
    this.changed();
  }

  moved([x1, y1, x2, y2], dx, dy) {
    const [width, height] = this.people.frame;
    const x = Math.min(Math.max(x1 + dx, Math.min(0, x1)), Math.max(width - (x2 - x1), x1));
    const y = Math.min(Math.max(y1 + dy, Math.min(0, y1)), Math.max(height - (y2 - y1), y1));
    return [x, y, x + x2 - x1, y + y2 - y1];
  }

  resized([x1, y1, x2, y2], dx, dy) {
    const [width, height] = this.people.frame;
    const least = LEAST * Math.max(width, height);
    const right = Math.min(Math.max(x2 + dx, x1 + least), Math.max(width, x2));
    const bottom = Math.min(Math.max(y2 + dy, y1 + least), Math.max(height, y2));
    return [x1, y1, right, bottom];
  }

  hold(event, person) {
    if (person.whole && event.target.className !== 'corner') return; // room to draw a box, or to scroll
    event.stopPropagation();
    const start = this.pointOf(event);
    const box = person.box;
    const resize = event.target.className === 'corner';
    this.drag(event, (point) => {
      const [dx, dy] = [point[0] - start[0], point[1] - start[1]];
      if (dx || dy) this.people.change(person, resize ? this.resized(box, dx, dy) : this.moved(box, dx, dy));
    });
  }

  /** With a mouse or pen a box is drawn where there is none; a finger there scrolls the page. */
  startNew(event) {
    if (event.pointerType === 'touch' || event.button !== 0) return;
    const start = this.pointOf(event);
    const least = LEAST * Math.max(...this.people.frame);
    let person = null;
    this.drag(event, (point) => {
      const box = [0, 1].map((axis) => Math.min(start[axis], point[axis]));
      box.push(...[0, 1].map((axis) => Math.max(start[axis], point[axis])));
      if (box[2] - box[0] < least || box[3] - box[1] < least) return;
      if (person) this.people.change(person, box);
      else person = this.people.add(box);
    });
  }

  drag(event, onMove) {
    if (this.held !== null) return;
    this.held = event.pointerId;
    event.preventDefault();
    (event.target.closest('.box') ?? this.layer).focus?.({ preventScroll: true });
    this.layer.setPointerCapture(event.pointerId);
    let moved = false;
    const over = new AbortController();
    const on = (name, action) => {
      const ofThis = (next) => next.pointerId === this.held && action(next);
      this.layer.addEventListener(name, ofThis, { signal: over.signal });
    };
    const end = () => {
      this.held = null;
      over.abort();
      if (moved) this.changed();
    };
    on('pointerup', end);
    on('pointercancel', end);
    on('pointermove', (next) => {
      moved = true;
      onMove(this.pointOf(next));
      this.update();
    });
  }

  /** A pointer in pixels of the frame, held inside it. */
  pointOf(event) {
    const area = this.layer.getBoundingClientRect();
    const [width, height] = this.people.frame;
    const share = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    return [width, height].map((size, axis) => size * Math.min(Math.max(share[axis], 0), 1));
  }

  changed() {
    this.update();
    this.onChange();
  }
}
