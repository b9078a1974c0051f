'use strict';

// Everything that comes from data reaches the page as text or number, never as
// markup.
const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A class name, to be broken after _ where it is too long for its place.
function named(text) {
  const made = element('span');
  for (const part of text.split(/(?<=_)/)) {
    made.append(part, element('wbr'));
  }
  return made;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// --- Pictures: each is a part of a sheet of across × across. ---

const sheets = [];
const across = data.across;

function sheet(number) {
  sheets[number] ??= URL.createObjectURL(
    new Blob([bytes(data.sheets[number])], {type: 'image/webp'}));
  return sheets[number];
}

function show(target, picture) {
  target.dataset.picture = picture;
  if (picture < 0) return;
  const place = picture % (across * across);
  const [x, y] = [place % across, Math.floor(place / across)];
  const share = (step) => `${(100 * step) / (across - 1)}%`;
  target.style.backgroundImage =
    `url(${sheet(Math.floor(picture / (across * across)))})`;
  target.style.backgroundSize = `${100 * across}%`;
  target.style.backgroundPosition = `${share(x)} ${share(y)}`;
}

// A picture is decoded when it is about to be seen.
const watcher = new IntersectionObserver((seen) => {
  for (const {target, isIntersecting} of seen) {
    if (!isIntersecting) continue;
    show(target, Number(target.dataset.picture));
    watcher.unobserve(target);
  }
}, {rootMargin: '400px'});
for (const one of document.querySelectorAll('.picture')) watcher.observe(one);
