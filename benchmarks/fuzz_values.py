"""Hostile values: bytes, text, JSON and arrays to put in place of good ones."""

import json
from typing import Any

import numpy as np

Rng = np.random.Generator

_TEXTS = (
  '', ' ', '\0', '-1', '0', '1e999', 'nan', 'inf', '-0', '9' * 400, 'None',
  'null', 'True', '[]', '()', '{}', '(1,)', "('a',)", '"', "'", '\\', '../..',
  '/etc/passwd', '~', '~nobody-there/x', 'a/b', '%s%n', '\ufeff', '\u202e',
  'Ж' * 40, '\ud800', '=1+1', 'x\ty', 'x\ny', '[t]', '[' * 2000, '1.5', '0x1f',
  '1_000', '__import__("os")', 'a' * 140_000, '9' * 5000,
)  # fmt: skip
_BYTES = (
  b'\0', b'\xff', b'\xff\xff\xff\xff', b'\0\0\0\0', b'\x7f\xff\xff\xff',
  b'\x80', b'PK\3\4', b'\x89PNG', b'\x93NUMPY', b'\x80\x04', b'\n', b'\r', b'"',
)  # fmt: skip


def text(rng: Rng) -> str:
  """A text that is seldom what was asked for."""
  return _TEXTS[rng.integers(len(_TEXTS))]


def one_line(error: Exception) -> None:
  """Raises unless the error's text is one line that says something."""
  text = str(error)
  if len(text.splitlines()) != 1 or not text.strip():
    raise AssertionError(f'not one line: {text[-200:]!r}') from error


def damage(rng: Rng, data: bytes) -> bytes:
  """The bytes cut, doubled, overwritten or shuffled in a few places."""
  for _ in range(rng.integers(1, 5)):
    at, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    kind = rng.integers(7)
    if kind == 0:
      data = data[:at]
    elif kind == 1:
      data = data[:at] + data[min(end, at + 64) :]
    elif kind == 2:
      data = data[:end] + data[at:]
    elif kind == 3:
      part = _BYTES[rng.integers(len(_BYTES))]
      data = data[:at] + part + data[at + len(part) :]
    elif kind == 4:
      data = data[:at] + _BYTES[rng.integers(len(_BYTES))] + data[at:]
    elif kind == 5 and at < len(data):
      flipped = data[at] ^ (1 << int(rng.integers(8)))
      data = data[:at] + bytes([flipped]) + data[at + 1 :]
    else:
      middle = bytearray(data[at:end])
      rng.shuffle(middle)
      data = data[:at] + bytes(middle) + data[end:]
    if not data:
      break
  return data


def sometimes_damaged(rng: Rng, data: bytes, *, whole: float) -> bytes:
  """Damages a file, or leaves it as it is in a share `whole` of the cases."""
  return data if rng.random() < whole else damage(rng, data)


def vary_json(rng: Rng, tree: Any) -> Any:
  """The tree with one node replaced, renamed or removed."""
  if isinstance(tree, dict) and tree and rng.random() < 0.9:
    name = list(tree)[rng.integers(len(tree))]
    choice = rng.random()
    if choice < 0.15:
      return {n: v for n, v in tree.items() if n != name}
    if choice < 0.25:
      return {text(rng) if n == name else n: v for n, v in tree.items()}
    return tree | {name: vary_json(rng, tree[name])}
  if isinstance(tree, list) and tree and rng.random() < 0.8:
    at = int(rng.integers(len(tree)))
    return [*tree[:at], vary_json(rng, tree[at]), *tree[at + 1 :]]
  return _node(rng)


def _node(rng: Rng) -> Any:
  nodes: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, float('nan'), float('inf'), [], {}, [[]],
    [None], {'': {}}, text(rng), [1, 'a', None], {'a': [1]},
  )  # fmt: skip
  return nodes[rng.integers(len(nodes))]


def nested_json(depth: int = 100_000) -> bytes:
  """JSON that is deeper than Python's parser goes."""
  return b'[' * depth + json.dumps(0).encode() + b']' * depth


def array(rng: Rng) -> np.ndarray:
  """An array of any type and shape, small."""
  kinds = (
    '?', 'i1', 'u8', 'i4', 'f2', 'f4', 'f8', 'c8', 'U3', 'S2', 'M8[s]', 'O',
    'i4,f4',
  )  # fmt: skip
  shapes = ((), (0,), (6,), (1,), (6, 4), (0, 4), (6, 0), (2, 3, 4), (5,))
  kind = kinds[rng.integers(len(kinds))]
  shape = shapes[rng.integers(len(shapes))]
  values = rng.integers(-3, 300, shape)
  if kind == 'O' or ',' in kind:
    return np.zeros(shape, kind)
  with np.errstate(all='ignore'):
    made = np.asarray(values).astype('i8').astype(kind)
  if kind in ('f2', 'f4', 'f8', 'c8') and made.size and rng.random() < 0.3:
    made = made + made.dtype.type(np.nan)
  return made
