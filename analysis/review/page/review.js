'use strict';

// Everything that comes from data reaches the page as text or number, never as
// markup. What is decided lives in the server: this page asks it again after
// each decision, its own or another browser's.

const byId = (id) => document.getElementById(id);
const STEP = 10; // tiles by which the line moves
const POLL = 2000; // ms between questions for others' decisions
const NAMELESS = 'Give a name first: a digit, or N and what you type.';
const GROWN = 1.2; // a set passed over comes again when it promises so much more

let about = {images: 0, seq: 0, special: {}, lineages: {}}; // of the review
let now; // names, classes, labels and predictions
let sets = []; // the list at the left
let view = {kind: '', key: '', rows: new Int32Array(0), names: []};
let line = 0; // how many tiles are about to be taken
let focus = 0; // place of the tile that keys act on
let marked = new Set(); // rows
let nearest = []; // classes of the tile in focus, for the keys 1 to 9
const passed = new Map(); // sets skipped -> how many images were likely then
let joining = false; // whether the next group clicked is joined to this one
let busy = Promise.resolve(); // decisions are sent one after the other

// --- The server. ---

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: 'POST',
    headers: {'Content-Type': 'application/json'},
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(`api/${path}`, options);
  } catch {
    throw Error('The review has ended: start it again, and reload this page.');
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = `The server refused it (${answer.status}).`;
  try { said = JSON.parse(text).error; } catch { /* no JSON */ }
  throw Error(said);
}

const json = async (path, body) => (await ask(path, body)).json();

async function list(path, body) {
  const answer = await ask(path, body);
  const found = JSON.parse(answer.headers.get('X-View'));
  return {...found, rows: new Int32Array(await answer.arrayBuffer())};
}

async function refresh() {
  const data = await (await ask('state')).arrayBuffer();
  const size = new DataView(data).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(data, 4, size));
  const n = about.images;
  const start = 4 + size;
  now = {
    ...JSON.parse(text),
    label: new Int16Array(data, start, n),
    first: new Int16Array(data, start + 2 * n, n),
    confidence: new Uint8Array(data, start + 4 * n, n),
  };
  about.seq = now.seq;
  const found = await json('sets');
  sets = found.sets;
  drawLists(found.decided);
  drawNames();
  grid.draw();
}

function say(text) {
  const said = byId('said');
  said.textContent = text;
  said.hidden = false;
  clearTimeout(say.timer);
  const time = Math.max(5000, 60 * text.length); // to read it
  say.timer = setTimeout(() => { said.hidden = true; }, time);
}

// Runs one thing after another, and says what went wrong.
function queue(task) {
  busy = busy.then(task).catch((error) => say(error.message));
  return busy;
}

// --- Drawing. ---

const grid = new Grid(byId('tiles'), describe, {press, point, sweep});

function describe(row, place) {
  const kinds = [];
  // Without a line, as one by one, none is paler than the others.
  if (line && place >= line) kinds.push('below');
  if (place === focus) kinds.push('focused');
  if (marked.has(row)) kinds.push('marked');
  if (grid.sweeps(place)) kinds.push('swept');
  if (now && now.label[row] >= 0) {
    kinds.push('decided');
    return {text: now.names[now.label[row]], kinds};
  }
  if (!now || now.first[row] < 0) return {text: '', kinds};
  const sure = Math.round(now.confidence[row] / 2.55);
  const name = now.classes[now.first[row]];
  // The name of the whole list would hide what differs.
  return {text: name === view.name ? `${sure} %` : `${sure} %\u00a0${name}`, kinds};
}

function drawLists(decided) {
  const total = decided.reduce((sum, one) => sum + one.images, 0);
  byId('progress').textContent =
    `${total.toLocaleString('en')} of ${about.images.toLocaleString('en')}` +
    ` decided, ${now.decisions.toLocaleString('en')} ` +
    (now.decisions === 1 ? 'decision' : 'decisions');
  byId('sets').replaceChildren(...sets.map((one) => entry(
    one.kind, setKey(one),
    one.name || 'no name yet', one.images,
    one.kind === 'group' ? `group ${one.key}` : 'predicted')));
  byId('decided').replaceChildren(...decided.map((one) =>
    entry('decided', one.name, one.name, one.images, 'decided')));
}

const setKey = (one) => (one.kind === 'group' ? String(one.key) : one.name);

function write(tag, kind, text = '') {
  const made = document.createElement(tag);
  made.className = kind;
  made.textContent = text;
  return made;
}

// Classes, each after the digit that names it.
function digits(before, names, after = '') {
  const numbered = names.map((name, i) => {
    const one = write('span', 'digit', name);
    one.prepend(write('b', '', i + 1), ' ');
    return one;
  });
  return [write('span', '', before), ...numbered, write('span', '', after)];
}

function entry(kind, key, name, count, title) {
  const item = document.createElement('li');
  const button = document.createElement('button');
  const words = write('span', 'name');
  // A long name breaks after _.
  words.append(...name.split(/(?<=_)/).flatMap(
    (part) => [part, document.createElement('wbr')]));
  if (kind === 'group') words.append(' ', write('small', '', title));
  const number = write('span', 'count', count.toLocaleString('en'));
  button.title = title;
  button.append(words, number);
  button.setAttribute('aria-current', kind === view.kind && key === view.key);
  button.addEventListener('click', () => {
    if (joining && kind === 'group') return join(key);
    queue(() => open(kind, key));
  });
  item.append(button);
  return item;
}

function drawNames() {
  const names = new Set([
    ...now.names, ...now.classes, ...Object.keys(about.lineages),
    ...Object.values(about.special)]);
  byId('names').replaceChildren(...[...names].sort().map((name) => {
    const option = document.createElement('option');
    option.value = name;
    // What is typed is sought in lineages, too.
    if (Object.hasOwn(about.lineages, name)) option.label = about.lineages[name];
    return option;
  }));
}

function drawLine() {
  line = Math.max(0, Math.min(line, view.rows.length));
  grid.line = line;
  const verb = line ? 'Take' : 'Name'; // without a line, one by one
  byId('take').textContent = `${verb} ${line ? taken().length : chosen().length}`;
  grid.plan();
}

async function drawFocus() {
  const row = view.rows[focus];
  nearest = [];
  byId('focused').replaceChildren();
  if (row === undefined) return;
  try {
    const found = await json(`about/${row}`);
    if (row !== view.rows[focus]) return; // it has moved on meanwhile
    nearest = found.nearest;
    byId('focused').replaceChildren(...digits('This image:', nearest, found.id));
    byId('focused').title = found.id; // which may not fit
  } catch { /* the next decision says so */ }
}

// --- Lists. ---

async function open(kind, key) {
  const path = `view/${kind}?of=${encodeURIComponent(key)}`;
  show({...await list(path), kind, key});
}

function show(found) {
  view = found;
  line = found.line;
  focus = 0;
  marked = new Set();
  joining = false;
  byId('heading').textContent = {
    group: `Group ${view.key}`, class: 'Predicted', unsure: 'One by one',
    drawn: 'As they were drawn', decided: 'Decided', like: 'More like these',
  }[view.kind];
  byId('name').value = view.name;
  byId('likely').replaceChildren(
    ...(view.names.length ? digits('All above the line, with Shift:', view.names) : []));
  byId('none').hidden = view.rows.length > 0;
  byId('none').textContent = {
    unsure: 'Every image is decided: write the tables.',
    drawn: 'Every image that was drawn is decided: write the tables.',
  }[view.kind] ?? 'No image is left in this list.';
  for (const button of document.querySelectorAll('nav li button')) {
    button.setAttribute('aria-current', 'false');
  }
  const current = byId('sets').children[placeNow()]?.firstChild;
  current?.setAttribute('aria-current', 'true');
  current?.scrollIntoView({block: 'nearest'});
  grid.open(view.rows);
  drawLine();
  drawFocus();
}

const placeNow = () => sets.findIndex(
  (one) => one.kind === view.kind && setKey(one) === view.key);
const passKey = (one) => `${one.kind} ${setKey(one)}`;

async function next() { // the most useful that nobody here has passed over
  const one = sets.find(
    (set) => set.likely > GROWN * (passed.get(passKey(set)) ?? -1));
  if (one) await open(one.kind, setKey(one));
  else await open('unsure', '');
}

async function step(by) { // along the list; what is left behind is passed over
  const place = placeNow();
  const one = sets[Math.max(0, Math.min(place + by, sets.length - 1))];
  if (by > 0 && place >= 0) passed.set(passKey(sets[place]), sets[place].likely);
  if (one) await open(one.kind, setKey(one));
}

// --- Decisions. ---

const undecided = (row) => now.label[row] < 0;
const taken = () => Array.from(view.rows.subarray(0, line)).filter(
  (row) => !marked.has(row) && (view.kind === 'decided' || undecided(row)));

// The marked ones, or else the image in focus.
function chosen() {
  if (marked.size) return [...marked];
  return focus < view.rows.length ? [view.rows[focus]] : [];
}

async function decide(kind, body) {
  const answer = await json(
    'decide', {who: byId('who').value, seen: about.seq, kind, ...body});
  if (answer.left) {
    say(`${answer.left} had been decided by someone else, and stay as they are.`);
  }
  await refresh();
}

function take(name = byId('name').value) {
  if (!line) return nameChosen(name);
  const rows = taken();
  if (!rows.length) return say('Nothing is above the line.');
  if (!name) return say(NAMELESS);
  return queue(async () => {
    const odd = [...marked].filter((row) => !rows.includes(row));
    await decide('take', {rows, odd, name});
    await next();
  });
}

function nameChosen(name) {
  const rows = chosen();
  if (!rows.length) return undefined;
  if (!name) return say(NAMELESS);
  return queue(async () => {
    await decide('take', {rows, odd: [], name});
    if (!line) byId('name').value = ''; // the next image is another one
    after(rows);
  });
}

function clearChosen() {
  const rows = chosen();
  return queue(async () => {
    await decide('clear', {rows});
    after(rows);
  });
}

function after(rows) { // on to the next tile that is still to be decided
  for (const row of rows) marked.delete(row);
  let place = focus;
  while (place < view.rows.length && !undecided(view.rows[place])) place++;
  if (place < view.rows.length) go(place);
  drawLine();
}

function like() {
  const rows = chosen();
  return queue(async () => {
    show({...await list('like', {rows}), kind: 'like', key: ''});
  });
}

function split() {
  const rows = [...marked];
  if (!rows.length) return say('Mark the images to split off first.');
  return queue(async () => {
    await decide('split', {rows});
    await open(view.kind, view.key);
  });
}

function join(key) {
  joining = false;
  return queue(async () => {
    const group = Number(view.key);
    await decide('join', {group, other: Number(key)});
    await open('group', view.key);
  });
}

function startJoin() {
  joining = view.kind === 'group';
  say(joining ? 'Click the group to join with this one.' : 'Open a group first.');
}

function turn(kind) {
  return queue(async () => {
    const answer = await json(kind, {who: byId('who').value});
    if (!answer.rows) say(`Nothing to ${kind}.`);
    await refresh();
    if (view.kind && view.kind !== 'like') await open(view.kind, view.key);
  });
}

function writeTables(classes) {
  return queue(async () => {
    const answer = await json('write', {classes});
    say([`Written to ${answer.folder}:`, answer.written.join(', '), ...answer.notes]
      .join('\n'));
  });
}

// --- What the person does. ---

function go(place) {
  focus = Math.max(0, Math.min(place, view.rows.length - 1));
  grid.reveal(focus);
  drawFocus();
}

function mark(place) {
  const row = view.rows[place];
  if (row === undefined) return;
  if (!marked.delete(row)) marked.add(row);
  drawLine();
}

function moveLine(to) {
  line = to;
  drawLine();
  grid.reveal(Math.max(0, line - 1));
}

function sweep(first, last) { // marks a run, or unmarks one that is marked
  byId('tiles').focus();
  const rows = Array.from(view.rows.subarray(first, last + 1));
  const all = rows.every((row) => marked.has(row));
  for (const row of rows) all ? marked.delete(row) : marked.add(row);
  focus = last;
  drawLine();
  drawFocus();
}

function point(place) { // keys act on the tile under the pointer
  if (place === focus) return;
  focus = place;
  drawLine();
  clearTimeout(point.timer);
  nearest = []; // of the tile before
  point.timer = setTimeout(drawFocus, 40);
}

function press(place, event) {
  byId('tiles').focus();
  focus = place;
  if (event.shiftKey) moveLine(place);
  else mark(place);
  drawFocus();
}

const KEYS = {
  Enter: () => take(),
  ' ': () => mark(focus),
  ArrowRight: () => go(focus + 1),
  ArrowLeft: () => go(focus - 1),
  ArrowDown: () => go(focus + grid.across),
  ArrowUp: () => go(focus - grid.across),
  Home: () => go(0),
  End: () => go(view.rows.length - 1),
  Escape: () => { marked = new Set(); joining = false; drawLine(); },
  g: () => moveLine(line + STEP),
  h: () => moveLine(line - STEP),
  t: () => moveLine(focus),
  n: () => byId('name').select(),
  x: clearChosen,
  m: like,
  s: split,
  j: startJoin,
  o: () => queue(() => open('unsure', '')),
  z: () => turn('undo'),
  y: () => turn('redo'),
  ']': () => queue(() => step(1)),
  '[': () => queue(() => step(-1)),
  '?': () => byId('keys').showModal(),
};

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (byId('keys').open) return;
  if (event.target.matches('input')) {
    if (event.key === 'Enter' || event.key === 'Escape') {
      event.preventDefault(); // the name is not yet a decision
      byId('tiles').focus();
    }
    return;
  }
  if (event.target.matches('button') && ['Enter', ' '].includes(event.key)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  let act = KEYS[key];
  if (key === 'Enter' && event.shiftKey) {
    act = () => (marked.size ? nameChosen(byId('name').value) : undefined);
  }
  if (key in about.special) act = () => nameChosen(about.special[key]);
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
  if (digit && event.shiftKey) {
    act = () => (view.names[digit - 1] ? take(view.names[digit - 1]) : undefined);
  } else if (digit) {
    act = () => nameChosen(nearest[digit - 1]);
  }
  if (!act) return;
  event.preventDefault();
  act();
});

const BUTTONS = {
  grow: KEYS.g, shrink: KEYS.h, like, split, join: startJoin,
  undo: KEYS.z, redo: KEYS.y, unsure: KEYS.o,
  drawn: () => queue(() => open('drawn', '')),
  write: () => writeTables(false), classes: () => writeTables(true),
  help: KEYS['?'],
};
for (const [id, act] of Object.entries(BUTTONS)) {
  byId(id).addEventListener('click', () => act());
}
byId('bar').addEventListener('submit', (event) => {
  event.preventDefault();
  take();
});
byId('who').value = localStorage.getItem('who') || 'me';
byId('who').addEventListener('change', () => {
  localStorage.setItem('who', byId('who').value);
});

async function listen() { // for the decisions of other browsers
  try {
    const {seq} = await json('seq');
    if (now && seq !== about.seq) await queue(refresh);
  } catch { /* it has ended; the next decision says so */ }
  setTimeout(listen, POLL);
}

queue(async () => {
  about = await json('start');
  byId('title').textContent = about.name;
  document.title = `Review: ${about.name}`;
  byId('drawn').hidden = !about.drawn;
  await refresh();
  await (about.drawn ? open('drawn', '') : next());
  byId('tiles').focus();
  document.body.dataset.ready = 'yes';
  listen();
});
