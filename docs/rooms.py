"""Draws docs/figures/architecture.svg: the rooms, and an image's way.

python docs/rooms.py
"""

import pathlib
from html import escape
from typing import NamedTuple

FILE = pathlib.Path(__file__).parent / 'figures' / 'architecture.svg'
_ROOT = pathlib.Path(__file__).parents[1]
_WIDTH, _HEIGHT = 205, 76  # of a box, px
_STEP_X, _STEP_Y = 245, 118  # from one box to the next
_MARGIN = 20


class Box(NamedTuple):
  """A room, or several, at a place of the grid."""

  column: int
  row: int
  title: str
  lines: tuple[str, ...]
  rooms: tuple[str, ...]  # files and folders, which the tests look for
  colour: str


_DATA, _MATHS, _TRAIN, _USE = '#dcecf7', '#e5f3df', '#fdeccf', '#ece3f5'

BOXES = (
  Box(0, 0, 'sources', ('folders, EcoTaxa, IFCB,', 'FlowCam, TFDS, drawn'),
      ('plankton_jax/data/sources', 'plankton_jax/data/ecotaxa',
       'plankton_jax/data/drawn'), _DATA),
  Box(1, 0, 'records', ('array_record, once', 'for each content'),
      ('plankton_jax/data',), _DATA),
  Box(2, 0, 'pixels', ('decoded once to', 'uint8 [N, H, W, C]'),
      ('plankton_jax/data/pixels',), _DATA),
  Box(3, 0, 'split', ('train, val, test;', 'unseen classes apart'),
      ('plankton_jax/data/splits.py',), _DATA),
  Box(3, 1, 'batches', ('seed and step', 'to indices [B]'),
      ('plankton_jax/train/sampling.py', 'plankton_jax/train/batches.py'),
      _TRAIN),
  Box(2, 1, 'augment', ('on the device,', 'keyed'),
      ('plankton_jax/augment.py',), _MATHS),
  Box(1, 1, 'nn', ('backbone, then head:', 'unit embeddings [B, D]'),
      ('plankton_jax/nn',), _MATHS),
  Box(0, 1, 'objectives', ('distances, mining,', 'losses with gradients'),
      ('plankton_jax/objectives', 'plankton_jax/mining.py',
       'plankton_jax/distances.py'), _MATHS),
  Box(0, 2, 'step', ('gradient, update,', 'metrics; one jit'),
      ('plankton_jax/train/step.py',), _TRAIN),
  Box(1, 2, 'loop', ('config, clock and disk:', 'validates, logs, saves'),
      ('plankton_jax/train/experiment.py', 'plankton_jax/train/loop.py',
       'configs'), _TRAIN),
  Box(2, 2, 'checkpoints', ('the newest and the best;', 'load_encoder'),
      ('plankton_jax/checkpoints.py',), _USE),
  Box(3, 2, 'export', ('safetensors with a card,', 'StableHLO, ONNX'),
      ('plankton_jax/export',), _USE),
  Box(2, 3, 'analysis', ('embed, measure, draw,', 'predict, review, count'),
      ('analysis',), _USE),
  Box(3, 3, 'retrieval, neighbours', ('exact, in tiles', ''),
      ('plankton_jax/retrieval.py', 'plankton_jax/neighbours'), _MATHS),
)  # fmt: skip
# From box to box by title; an image's way, then who uses whom.
_WAY = (
  ('sources', 'records'), ('records', 'pixels'), ('pixels', 'split'),
  ('split', 'batches'), ('batches', 'augment'), ('augment', 'nn'),
  ('nn', 'objectives'), ('objectives', 'step'), ('step', 'loop'),
  ('loop', 'checkpoints'), ('checkpoints', 'export'),
  ('checkpoints', 'analysis'),
)  # fmt: skip
_USES = (('analysis', 'retrieval, neighbours'),)
_CAPTION = (
  'plankton_jax/ and analysis/: the way of an image',
  'cli/ has the commands; benchmarks/ and tests/ look on from outside.',
)


def draw() -> str:
  """Returns the picture as SVG."""
  columns = 1 + max(box.column for box in BOXES)
  rows = 1 + max(box.row for box in BOXES)
  width = 2 * _MARGIN + (columns - 1) * _STEP_X + _WIDTH
  height = 2 * _MARGIN + (rows - 1) * _STEP_Y + _HEIGHT
  parts = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
    ' font-family="sans-serif" text-anchor="middle">',
    '<title>The rooms of plankton_jax and the way of an image</title>',
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4"'
    ' markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
    f'<rect width="{width}" height="{height}" fill="white"/>',
  ]
  parts += [_arrow(*pair, dashed=False) for pair in _WAY]
  parts += [_arrow(*pair, dashed=True) for pair in _USES]
  parts += [_box(box) for box in BOXES]
  y = _MARGIN + (rows - 1) * _STEP_Y + _HEIGHT / 2 - 6
  for i, text in enumerate(_CAPTION):
    parts.append(
      f'<text x="{_MARGIN}" y="{y + 22 * i:g}" font-size="13" fill="#555"'
      f' text-anchor="start">{escape(text)}</text>'
    )
  return '\n'.join([*parts, '</svg>', ''])


def _corner(box: Box) -> tuple[int, int]:
  return _MARGIN + box.column * _STEP_X, _MARGIN + box.row * _STEP_Y


def _box(box: Box) -> str:
  x, y = _corner(box)
  middle = x + _WIDTH / 2
  texts = [
    f'<text x="{middle:g}" y="{y + 24}" font-size="16" font-weight="bold">'
    f'{escape(box.title)}</text>'
  ]
  texts += [
    f'<text x="{middle:g}" y="{y + 45 + 18 * i}" font-size="13">'
    f'{escape(line)}</text>'
    for i, line in enumerate(box.lines)
  ]
  return (
    f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"'
    f' fill="{box.colour}" stroke="#888"/>' + ''.join(texts)
  )


def _arrow(start: str, end: str, *, dashed: bool) -> str:
  """Draws a straight arrow between the facing sides of two neighbours."""
  by_title = {box.title: box for box in BOXES}
  (x1, y1), (x2, y2) = (_corner(by_title[name]) for name in (start, end))
  if y1 == y2:  # side by side
    right = x2 > x1
    points: tuple[float, ...] = (
      x1 + _WIDTH * right, y1 + _HEIGHT / 2,
      x2 + _WIDTH * (not right), y2 + _HEIGHT / 2,
    )  # fmt: skip
  else:
    middle = x1 + _WIDTH / 2
    points = (middle, y1 + _HEIGHT, middle, y2)
  named = zip(('x1', 'y1', 'x2', 'y2'), points, strict=True)
  ends = ' '.join(f'{name}="{value:g}"' for name, value in named)
  dashes = ' stroke-dasharray="5 4"' if dashed else ''
  return (
    f'<line {ends} stroke="#555"'
    f' stroke-width="1.6" marker-end="url(#head)"{dashes}/>'
  )


if __name__ == '__main__':
  FILE.write_text(draw(), encoding='utf-8')
  print(FILE.relative_to(_ROOT))
