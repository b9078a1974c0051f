'use strict';

// A grid of any number of tiles, of which only the visible ones exist.

const TILE = {width: 108, height: 140, spare: 2, batch: 64, kept: 4000};

class Pictures {
  // Fetches pictures in batches in the order of the list, and keeps the last.
  constructor() {
    this.urls = new Map(); // row -> address of a picture, the oldest first
    this.asked = new Set();
  }

  show(image, row) {
    const url = this.urls.get(row);
    image.hidden = url === undefined;
    if (url !== undefined && image.src !== url) image.src = url;
  }

  async need(rows, then) {
    const wanted = rows.filter(
      (row) => !this.urls.has(row) && !this.asked.has(row));
    for (let i = 0; i < wanted.length; i += TILE.batch) {
      const batch = wanted.slice(i, i + TILE.batch);
      for (const row of batch) this.asked.add(row);
      try {
        const answer = await fetch(`api/thumbs?rows=${batch.join(',')}`);
        if (!answer.ok) continue;
        const data = await answer.arrayBuffer();
        const sizes = new Uint32Array(data, 0, batch.length);
        let start = 4 * batch.length;
        batch.forEach((row, k) => {
          const part = data.slice(start, start + sizes[k]);
          this.urls.set(
            row, URL.createObjectURL(new Blob([part], {type: 'image/jpeg'})));
          start += sizes[k];
        });
        this.forget();
        then();
      } catch {
        // The server has ended; the page says so when it next asks.
      } finally {
        for (const row of batch) this.asked.delete(row);
      }
    }
  }

  forget() {
    for (const [row, url] of this.urls) {
      if (this.urls.size <= TILE.kept) return;
      URL.revokeObjectURL(url);
      this.urls.delete(row);
    }
  }
}

class Grid {
  // `describe(row, place)` gives a tile's text and classes. `act` is called with
  // places of tiles: `press(place, event)` of a click, `point(place)` of the tile
  // under a pointer that moved, `sweep(first, last)` of a run that was dragged.
  constructor(element, describe, act) {
    this.element = element;
    this.describe = describe;
    this.act = act;
    this.from = undefined; // places of a run that is dragged
    this.to = undefined;
    this.swept = false;
    this.pointer = ''; // where it was last
    this.rows = new Int32Array(0);
    this.line = -1;
    this.pictures = new Pictures();
    this.pool = [];
    this.space = document.createElement('div');
    this.mark = document.createElement('div');
    this.mark.className = 'line';
    element.append(this.space, this.mark);
    element.addEventListener('scroll', () => this.plan(), {passive: true});
    new ResizeObserver(() => this.plan()).observe(element);
    element.addEventListener('pointerdown', (event) => this.down(event));
    element.addEventListener('pointermove', (event) => this.move(event));
    element.addEventListener('pointerup', () => this.up());
    element.addEventListener('pointercancel', () => { this.from = undefined; });
    element.addEventListener('click', (event) => {
      const tile = event.target.closest('.tile');
      if (tile && !this.swept) this.act.press(Number(tile.dataset.place), event);
    });
  }

  under(event) { // the place under the pointer, if there is a tile
    const found = document.elementFromPoint(event.clientX, event.clientY);
    const tile = found?.closest('#tiles .tile');
    return tile ? Number(tile.dataset.place) : undefined;
  }

  down(event) {
    this.swept = false;
    const plain = event.button === 0 && !event.shiftKey;
    if (plain && event.pointerType !== 'touch') this.from = this.under(event);
    this.to = this.from;
  }

  move(event) {
    const pointer = `${event.clientX} ${event.clientY}`;
    if (pointer === this.pointer) return; // the page moved, and not the pointer
    this.pointer = pointer;
    if (!(event.buttons & 1)) this.from = undefined; // released elsewhere
    const place = this.under(event);
    if (place === undefined) return;
    if (this.from === undefined) {
      this.act.point(place);
    } else if (place !== this.to) {
      this.to = place;
      this.swept = true;
      this.element.setPointerCapture(event.pointerId);
      this.reveal(place);
    }
  }

  up() {
    const run = this.swept && this.from !== undefined ? this.run : null;
    this.from = undefined;
    if (run) this.act.sweep(...run);
  }

  get run() { // the first and last place that are dragged over
    return [Math.min(this.from, this.to), Math.max(this.from, this.to)];
  }

  sweeps(place) {
    if (!this.swept || this.from === undefined) return false;
    const [first, last] = this.run;
    return first <= place && place <= last;
  }

  get across() {
    return Math.max(1, Math.floor((this.element.clientWidth - 12) / TILE.width));
  }

  open(rows) {
    this.rows = rows;
    this.from = undefined;
    this.element.scrollTop = 0;
    this.draw();
  }

  plan() { // Draws once a frame, however often it scrolls.
    if (this.planned) return;
    this.planned = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.planned = false;
    const {across, element, rows} = this;
    const height = Math.ceil(rows.length / across) * TILE.height;
    this.space.style.height = `${height + 12}px`;
    const first = Math.max(
      0, Math.floor(element.scrollTop / TILE.height) - TILE.spare) * across;
    const lines = Math.ceil(element.clientHeight / TILE.height);
    const last = Math.min(
      rows.length, first + (lines + 2 * TILE.spare + 1) * across);
    while (this.pool.length < last - first) this.pool.push(this.make());
    this.pool.forEach((tile, k) => {
      const place = first + k;
      tile.hidden = place >= last;
      if (!tile.hidden) this.fill(tile, place, across);
    });
    this.mark.hidden = !(this.line > 0 && this.line >= first && this.line <= last);
    if (!this.mark.hidden) {
      const [x, y] = this.corner(this.line - 1, across);
      this.mark.style.transform = `translate(${x + TILE.width - 4}px, ${y + 2}px)`;
    }
    this.pictures.need(Array.from(rows.subarray(first, last)), () => this.plan());
  }

  make() {
    const tile = document.createElement('div');
    tile.append(document.createElement('img'), document.createElement('span'));
    tile.setAttribute('role', 'gridcell');
    tile.firstChild.alt = '';
    tile.firstChild.draggable = false;
    this.element.append(tile);
    return tile;
  }

  fill(tile, place, across) {
    const row = this.rows[place];
    const [x, y] = this.corner(place, across);
    const {text, kinds} = this.describe(row, place);
    tile.dataset.place = place;
    tile.className = ['tile', ...kinds].join(' ');
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.lastChild.textContent = text;
    tile.setAttribute('aria-label', text);
    tile.setAttribute('aria-selected', kinds.includes('marked'));
    this.pictures.show(tile.firstChild, row);
  }

  corner(place, across) {
    return [
      6 + (place % across) * TILE.width,
      6 + Math.floor(place / across) * TILE.height,
    ];
  }

  reveal(place) { // Scrolls no farther than it has to.
    const top = Math.floor(place / this.across) * TILE.height;
    const {scrollTop, clientHeight} = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    const under = top + TILE.height + 12 - clientHeight;
    if (under > scrollTop) this.element.scrollTop = under;
    this.plan();
  }
}
