"""Recognises files that draw boxes or outlines within images.

Sets to train detectors on have whole frames, many objects each. Embeddings are
of crops, one object each.
"""

import re
from collections.abc import Callable, Iterable

_TRIED = 20  # files of each ending that are looked into
_START = 2**20  # bytes of a file that are looked at
# Words that a file of each kind holds, by its ending.
_WORDS = {
  '.json': (
    ('COCO', (b'"bbox"', b'"image_id"')),
    ('COCO', (b'"images"', b'"annotations"', b'"categories"')),
    ('LabelMe', (b'"shapes"', b'"imagePath"')),
    ('VIA', (b'"regions"', b'"shape_attributes"')),
  ),
  '.xml': (
    ('Pascal VOC', (b'<bndbox>',)),
    ('CVAT', (b'<annotations>', b'<box ')),
  ),
}
# A class's number, then four or more shares of the image's sides.
_NUMBER = rb'(?:0?\.\d+|[01](?:\.\d*)?)(?:e-\d+)?'
_YOLO = re.compile(rb'\d+(?:[ \t]+' + _NUMBER + rb'){4,}\s*')


def describe(names: Iterable[str], start: Callable[[str, int], bytes]) -> str:
  """Says which files draw boxes and what to do; '' if none does.

  Args:
    names: of all files that may.
    start: reads the first bytes of one, as many as asked for.
  """
  left = {'.json': _TRIED, '.xml': _TRIED, '.txt': _TRIED}
  for name in names:
    ending = name[name.rfind('.') :].lower()
    if left.get(ending, 0) > 0:
      left[ending] -= 1
      if kind := _kind(ending, start(name, _START)):
        return (
          f'{name} draws boxes within images ({kind}), which are passed over:'
          ' embeddings are of one object an image, so cut the objects out first'
        )
  return ''


def _kind(ending: str, text: bytes) -> str:
  """Names the kind of boxes that a file draws; '' if it draws none."""
  if ending == '.txt':
    lines = [line for line in text[:4096].splitlines()[:20] if line.strip()]
    return 'YOLO' if lines and all(map(_YOLO.fullmatch, lines)) else ''
  for kind, words in _WORDS[ending]:
    if all(word in text for word in words):
      return kind
  return ''
