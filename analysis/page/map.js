// The interactive map; it follows pictures.js in one script.

async function map() {
  const {classes, splits} = data.map;
  const runs = data.map.sources.map((run) => ({
    ...run,
    x: new Float32Array(bytes(run.x).buffer),
    y: new Float32Array(bytes(run.y).buffer),
    class: new Uint16Array(bytes(run.class).buffer),
    split: new Uint16Array(bytes(run.split).buffer),
    image: new Int32Array(bytes(run.image).buffer),
    nearest: new Uint32Array(bytes(run.nearest).buffer),
    distance: new Float32Array(bytes(run.distance).buffer),
  }));
  await Bokeh.embed.embed_item(data.plot);
  const models = Bokeh.documents.at(-1);
  const model = (name) => models.get_model_by_name(name);
  const plot = model('plot');
  const frame = byId('plot-frame');
  const hover = byId('hover');
  const panel = byId('panel');
  const ink = () => getComputedStyle(document.body).color;
  const touch = matchMedia('(pointer: coarse)').matches;

  let run;
  let visible; // by point
  let current = -1; // under the pointer, or reached by key
  let pinned = -1;

  const about = (i) => classes[run.class[i]];
  const nearest = (i) => {
    const count = run.nearest.length / run.x.length;
    return Array.from({length: count}, (_, k) => ({
      point: run.nearest[i * count + k],
      distance: run.distance[i * count + k],
    }));
  };

  // Places in px from the plot's top left, and back.
  function pixels() {
    const [h, v] = [plot.x_range, plot.y_range];
    const across = frame.clientWidth / (h.end - h.start);
    const down = frame.clientHeight / (v.end - v.start);
    return {
      x: (i) => (run.x[i] - h.start) * across,
      y: (i) => (v.end - run.y[i]) * down,
    };
  }

  function pointAt(x, y, reach) {
    const at = pixels();
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < run.x.length; i++) {
      if (!visible[i]) continue;
      const d = (at.x(i) - x) ** 2 + (at.y(i) - y) ** 2;
      if (d <= least) [best, least] = [i, d]; // the last is drawn on top
    }
    return best;
  }

  // --- Drawing. ---

  const LOOK = {train: [4.5, 0.3], test: [6, 0.85], unseen: [10, 0.85]};

  function drawPoints() {
    const edge = ink();
    const look = splits.map((name) => LOOK[name] ?? LOOK.test);
    const unseen = splits.map((name) => name === 'unseen');
    const scale = frame.clientWidth < 500 ? 0.75 : 1;
    const each = (give) => Array.from(run.split, give);
    model('shown').booleans = null; // until the lengths agree again
    model('points').data = {
      x: run.x,
      y: run.y,
      fill: Array.from(run.class, (c) => classes[c].colour),
      mark: each((s) => (unseen[s] ? 'diamond' : 'circle')),
      size: each((s) => scale * look[s][0]),
      alpha: each((s) => look[s][1]),
      edge: each((s) => (unseen[s] ? edge : 'transparent')),
    };
    model('shown').booleans = Array.from(visible);
  }

  function drawMarks() {
    const line = ink();
    const ends = pinned < 0 ? [] : nearest(pinned).map(({point}) => point);
    model('links').data = {
      x0: ends.map(() => run.x[pinned]),
      y0: ends.map(() => run.y[pinned]),
      x1: ends.map((i) => run.x[i]),
      y1: ends.map((i) => run.y[i]),
      line: ends.map(() => line),
    };
    const rings = [...ends.map((i) => [i, 11])];
    if (pinned >= 0) rings.push([pinned, 18]);
    if (current >= 0 && current !== pinned) rings.push([current, 15]);
    model('rings').data = {
      x: rings.map(([i]) => run.x[i]),
      y: rings.map(([i]) => run.y[i]),
      size: rings.map(([, size]) => size),
      line: rings.map(() => line),
    };
  }

  function dot(i) {
    const made = element('span', 'dot');
    made.style.background = about(i).colour;
    if (about(i).unseen) made.classList.add('unseen');
    return made;
  }

  function picture(i) {
    const made = element('span', 'picture');
    made.setAttribute('role', 'img');
    made.setAttribute('aria-label', about(i).name);
    show(made, run.image[i]);
    return made;
  }

  function drawHover(x, y) {
    hover.hidden = touch || current < 0; // a finger would cover it
    if (hover.hidden) return;
    const name = element('b');
    name.append(dot(current), named(about(current).name));
    const where = element('div', 'distance', splits[run.split[current]]);
    hover.replaceChildren(picture(current), name, where);
    const right = x + 20 + hover.offsetWidth < frame.clientWidth;
    const below = y + 20 + hover.offsetHeight < frame.clientHeight;
    const left = right ? x + 16 : x - 16 - hover.offsetWidth;
    const top = below ? y + 16 : y - 16 - hover.offsetHeight;
    hover.style.left = `${Math.max(4, left)}px`;
    hover.style.top = `${Math.max(4, top)}px`;
  }

  function drawPanel() {
    if (pinned < 0) {
      panel.replaceChildren(element('p', 'hint',
        'Click a point to pin it here with its nearest neighbours.'));
      return;
    }
    const head = element('div', 'pinned');
    const words = element('div');
    const name = element('b');
    name.append(dot(pinned), named(about(pinned).name));
    words.append(
      name,
      element('span', 'distance', splits[run.split[pinned]]),
      element('span', 'distance', run.id[pinned]));
    head.append(picture(pinned), words);
    const list = element('ol');
    for (const {point, distance} of nearest(pinned)) {
      const button = element('button');
      const words = element('span', 'about');
      words.append(dot(point), named(about(point).name));
      button.append(picture(point), words,
        element('span', 'distance', distance.toFixed(3)));
      button.title = run.id[point];
      button.addEventListener('click', () => {
        pin(point);
        panel.querySelector('li button')?.focus();
      });
      const item = element('li');
      item.append(button);
      list.append(item);
    }
    panel.replaceChildren(head,
      element('h4', '', 'Nearest in the embedding, and how far'), list);
    panel.scrollTop = 0;
  }

  // --- What the reader does. ---

  function point(i, x, y) {
    const changed = i !== current;
    current = i;
    drawHover(x, y);
    if (changed) drawMarks();
  }

  function pin(i) {
    pinned = i;
    drawPanel();
    drawMarks();
  }

  function go(i) { // to a point, bringing it into view
    const at = pixels();
    const [x, y] = [at.x(i), at.y(i)];
    const inside = x > 8 && y > 8 && x < frame.clientWidth - 8 &&
      y < frame.clientHeight - 8;
    if (!inside) {
      const {x_range: h, y_range: v} = plot;
      const [dx, dy] = [(h.end - h.start) / 2, (v.end - v.start) / 2];
      h.setv({start: run.x[i] - dx, end: run.x[i] + dx});
      v.setv({start: run.y[i] - dy, end: run.y[i] + dy});
    }
    const now = pixels();
    point(i, now.x(i), now.y(i));
    byId('spoken').textContent =
      `${about(i).name}, ${splits[run.split[i]]}, ${run.id[i]}`;
  }

  function zoom(factor) {
    for (const range of [plot.x_range, plot.y_range]) {
      const middle = (range.start + range.end) / 2;
      const half = ((range.end - range.start) / 2) * factor;
      range.setv({start: middle - half, end: middle + half});
    }
    point(-1);
  }

  function reset() {
    for (const [range, values] of [[plot.x_range, run.x], [plot.y_range, run.y]]) {
      const low = values.reduce((a, b) => Math.min(a, b), Infinity);
      const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
      const pad = 0.04 * (high - low) || 1;
      range.setv({start: low - pad, end: high + pad});
    }
    point(-1);
  }

  function step(dx, dy) { // to the nearest point in a direction
    const at = pixels();
    if (current < 0) {
      const start = pinned >= 0 ? pinned :
        pointAt(frame.clientWidth / 2, frame.clientHeight / 2, Infinity);
      if (start >= 0) go(start);
      return;
    }
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < run.x.length; i++) {
      if (!visible[i] || i === current) continue;
      const [x, y] = [at.x(i) - at.x(current), at.y(i) - at.y(current)];
      const ahead = x * dx + y * dy;
      const aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (ahead <= 0 || aside > ahead) continue;
      if (ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
    }
    if (best >= 0) go(best);
  }

  function filter() {
    const on = (name) => [...document.querySelectorAll(`#${name} input`)]
      .map((box) => box.checked);
    const [byClass, bySplit] = [on('classes'), on('splits')];
    const wanted = new Map([...document.querySelectorAll('#classes input')]
      .map((box, k) => [Number(box.value), byClass[k]]));
    visible = Array.from(run.class, (c, i) =>
      Boolean(wanted.get(c)) && bySplit[run.split[i]]);
    model('shown').booleans = visible;
    point(-1);
  }

  function open(number) {
    run = runs[number];
    visible = Array(run.x.length).fill(true);
    [current, pinned] = [-1, -1];
    drawPoints();
    filter();
    reset();
    pin(-1);
  }

  function toggle(group, value, name, colour, unseen) {
    const label = element('label');
    const box = element('input');
    Object.assign(box, {type: 'checkbox', checked: true, value});
    box.addEventListener('change', filter);
    label.append(box);
    if (colour) {
      const made = element('span', unseen ? 'dot unseen' : 'dot');
      made.style.background = colour;
      label.append(made);
    }
    label.append(name);
    byId(group).append(label);
  }

  const present = new Set(runs.flatMap((one) => [...new Set(one.class)]));
  splits.forEach((name, i) => toggle('splits', i, name));
  classes.forEach(({name, colour, unseen}, i) => {
    if (present.has(i)) {
      toggle('classes', i, unseen ? `${name} (unseen)` : name, colour, unseen);
    }
  });
  for (const [id, checked] of [['all', true], ['none', false]]) {
    byId(id).addEventListener('click', () => {
      for (const box of document.querySelectorAll('#classes input')) {
        box.checked = checked;
      }
      filter();
    });
  }

  const reach = touch ? 26 : 14;
  plot.on_event('mousemove', ({sx, sy}) => point(pointAt(sx, sy, reach), sx, sy));
  plot.on_event('mouseleave', () => point(-1));
  plot.on_event('tap', ({sx, sy}) => pin(pointAt(sx, sy, reach)));

  // The wheel scrolls the page until the map has the focus; so does a finger
  // until Drag is pressed.
  const {toolbar} = plot;
  const setDrag = (on) => {
    toolbar.active_drag = on ? model('pan') : null;
    model('pan').active = on;
    byId('drag').setAttribute('aria-pressed', on);
  };
  const setWheel = (on) => { model('wheel').active = on; };
  frame.addEventListener('pointerdown', () => frame.focus({preventScroll: true}));
  frame.addEventListener('focusin', () => setWheel(true));
  frame.addEventListener('focusout', () => {
    setWheel(touch);
    point(-1);
  });
  byId('drag').addEventListener('click', () => setDrag(!model('pan').active));
  byId('zoom-in').addEventListener('click', () => zoom(1 / 1.5));
  byId('zoom-out').addEventListener('click', () => zoom(1.5));
  byId('reset').addEventListener('click', reset);
  byId('source').addEventListener('change', (event) => open(event.target.value));

  const keys = {
    ArrowLeft: () => step(-1, 0),
    ArrowRight: () => step(1, 0),
    ArrowUp: () => step(0, -1),
    ArrowDown: () => step(0, 1),
    Enter: () => pin(current),
    ' ': () => pin(current),
    Escape: () => { pin(-1); point(-1); },
    '+': () => zoom(1 / 1.5),
    '=': () => zoom(1 / 1.5),
    '-': () => zoom(1.5),
    0: reset,
  };
  frame.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  let found = -1;
  byId('query').addEventListener('input', () => { found = -1; });
  byId('find').addEventListener('submit', (event) => {
    event.preventDefault();
    const query = byId('query').value.trim().toLowerCase();
    const hits = [];
    for (let i = 0; query && i < run.id.length; i++) {
      const text = `${about(i).name} ${run.id[i]}`.toLowerCase();
      if (visible[i] && text.includes(query)) hits.push(i);
    }
    found = hits.length ? (found + 1) % hits.length : -1;
    byId('matches').value =
      hits.length ? `${found + 1} of ${hits.length}` : 'no match';
    if (hits.length) {
      go(hits[found]);
      pin(hits[found]);
    }
  });

  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    drawPoints();
    drawMarks();
  });

  setDrag(!touch);
  setWheel(touch);
  open(0);
  document.body.dataset.ready = 'map';
}

if (data.map) map();
