"""Chooses the colour and mark of every class, for all drawings of points."""

from collections.abc import Iterable, Mapping

import numpy as np

from analysis.figures import style
from analysis.files.inputs import Embeddings

Colour = tuple[float, float, float, float]

UNLABELLED = 'unlabelled'
GREY = (0.6, 0.6, 0.6, 1.0)


def mark(split: str) -> str:
  """Returns Matplotlib's mark of a split's points."""
  return 'D' if split == 'unseen' else 'o'


def marks(sources: Iterable[Mapping[str, Embeddings]]) -> dict[str, str]:
  """Lists every class that has rows, in order, with the mark of its points."""
  found: dict[str, str] = {}
  for splits in sources:
    for split, rows in splits.items():
      for label in np.unique(rows.label[rows.label >= 0]):
        found.setdefault(rows.class_names[label], mark(split))
  return found


def colours(names: Iterable[str]) -> dict[str, Colour]:
  """Gives each class a colour, and grey to points without label."""
  every = list(names)
  shades = style.palette(len(every))
  return {**dict(zip(every, shades, strict=True)), UNLABELLED: GREY}
