"""What lies at each class's centre, at its edge, and who else comes near.

`python -m analysis.gallery --workdir=DIR [--split=test,unseen]`. Distances are
Euclidean, in the embedding. A class's centre is the mean of its embeddings in
the split, not brought back to unit length; the ranks would be the same.
"""

import pathlib
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from analysis.files.inputs import Embeddings, Source
from plankton_jax.errors import InputError

SPLIT = flags.DEFINE_list(
  'split', ['test', 'unseen'], 'Splits whose classes the gallery shows.'
)

COUNT = 5  # images of each kind
PAGE = 6  # classes on a figure
KINDS = {
  'nearest': 'nearest the class centre',
  'farthest': 'farthest from it',
  'other': 'nearest of other classes',
}
CELL, GAP, LINE = 1.0, 0.35, 1.78  # inches: an image, between kinds, a class


class Ranked(NamedTuple):
  """One class of a split; rows index the split's embeddings, best first."""

  label: int
  size: int  # images
  rows: dict[str, np.ndarray]  # by kind, at most COUNT each
  distance: np.ndarray  # [N] of every row of the split to the centre


def rank(embedding: np.ndarray, label: np.ndarray) -> list[Ranked]:
  """Ranks rows [N, D] about the centre of each class in `label` [N].

  `other` rows are of other classes of the same split. Ties go to the first.
  """
  points = embedding.astype(np.float64)
  ranked = []
  for this in np.unique(label):
    own = label == this
    distance = np.linalg.norm(points - points[own].mean(axis=0), axis=1)
    inside, outside = np.flatnonzero(own), np.flatnonzero(~own)
    kinds = {
      'nearest': inside[np.argsort(distance[inside], kind='stable')],
      'farthest': inside[np.argsort(-distance[inside], kind='stable')],
      'other': outside[np.argsort(distance[outside], kind='stable')],
    }
    rows = {kind: found[:COUNT] for kind, found in kinds.items()}
    ranked.append(Ranked(int(this), len(inside), rows, distance))
  return ranked


def reader(source: Source) -> Callable[[str], np.ndarray]:
  """What gives the original image, uint8 [H, W] or [H, W, 3], of an id.

  Raises:
    InputError: the source is no workdir, or its images are not there; and,
      from what is returned, an id that names no image.
  """
  if source.workdir is None:
    raise InputError(f'{source.name}: images need a workdir; give --workdir')
  from plankton_jax.train import loop

  originals = loop.load_data(source.config, source.workdir).originals

  def read(key: str) -> np.ndarray:
    try:
      return originals.read(key)
    except KeyError:
      raise InputError(
        f'{source.workdir}: {key} is not among its images; embed again'
      ) from None

  return read


def table(
  source: str, split: str, found: Embeddings, ranked: Sequence[Ranked]
) -> list[dict[str, Any]]:
  """The ranked rows with their distances, as rows of a table."""
  return [
    {
      'source': source,
      'split': split,
      'class': found.class_names[one.label],
      'images': one.size,
      'kind': kind,
      'rank': place,
      'id': found.id[row],
      'true_class': found.class_names[found.label[row]],
      'distance': one.distance[row],
    }
    for one in ranked
    for kind, rows in one.rows.items()
    for place, row in enumerate(rows, 1)
  ]


def draw(
  title: str,
  found: Embeddings,
  ranked: Sequence[Ranked],
  read: Callable[[str], np.ndarray],
) -> plt.Figure:
  """A line a class, a group of columns a kind; images fill their cells."""
  width = len(KINDS) * (COUNT * CELL + GAP)
  height = len(ranked) * LINE + 0.6
  figure = plt.figure(figsize=(width, height))
  # One axes in inches from the top left: one for each image would be slow.
  ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
  ax.set(xlim=(0.0, width), ylim=(height, 0.0))
  ax.axis('off')
  ax.text(0.02, 0.1, title, fontsize=11, va='center')
  for line, one in enumerate(ranked):
    top = 0.75 + line * LINE
    name = found.class_names[one.label]
    ax.plot([0.0, width - GAP], [top - 0.22] * 2, color='0.8', lw=0.6)
    ax.text(
      *(0.02, top - 0.09),
      f'{name}  ({one.size} image{"s" * (one.size != 1)})',
      **{'fontsize': 9, 'fontweight': 'bold', 'va': 'center'},
      parse_math=False,  # names may hold $
    )
    for group, (kind, heading) in enumerate(KINDS.items()):
      left = group * (COUNT * CELL + GAP)
      if line == 0:
        ax.text(left + 0.02, top - 0.35, heading, fontsize=9, va='center')
      for place, row in enumerate(one.rows[kind]):
        text = f'{one.distance[row]:.3f}'
        if kind == 'other':
          text = wrapped(found.class_names[found.label[row]]) + f'\n{text}'
        put(ax, left + place * CELL, top + 0.03, read(found.id[row]), text)
  return figure


def put(ax: plt.Axes, left, top, image: np.ndarray, text: str) -> None:
  """An image, as large as its cell lets it, with its text underneath."""
  side = 0.94 * CELL
  high, wide = np.array(image.shape[:2]) * side / max(image.shape[:2])
  x, y = left + (side - wide) / 2.0, top + (side - high) / 2.0
  ax.imshow(
    image,
    extent=(x, x + wide, y + high, y),
    **({'cmap': 'gray', 'vmin': 0, 'vmax': 255} if image.ndim == 2 else {}),
    aspect='auto',
  )
  ax.text(left + side / 2.0, top + side + 0.04, text, **_UNDER)


_UNDER = {
  'fontsize': 6.5,
  'ha': 'center',
  'va': 'top',
  'linespacing': 1.05,
  'parse_math': False,
}


def wrapped(name: str) -> str:
  """A class name in lines that a cell has room for, broken after _ first."""
  lines = textwrap.wrap(name.replace('_', '_ '), 18)
  return '\n'.join(line.replace('_ ', '_') for line in lines[:3])


def summary(
  source: str, split: str, found: Embeddings, ranked: Sequence[Ranked]
) -> list[dict[str, Any]]:
  """How wide each class is and who comes nearest, as rows of a table."""
  rows = []
  for one in ranked:
    own = one.distance[found.label == one.label]
    other = one.rows['other'][:1]
    rows.append(
      {
        'source': source,
        'split': split,
        'class': found.class_names[one.label],
        'images': one.size,
        'nearest': own.min(),
        'median': np.median(own),
        'farthest': own.max(),
        'other': one.distance[other[0]] if len(other) else np.nan,
        'of class': found.class_names[found.label[other[0]]]
        if len(other)
        else '',
      }
    )
  return rows


def analyse(
  sources: list[Source], out: pathlib.Path, *, splits: Sequence[str]
) -> None:
  """Ranks and draws; gallery.csv and gallery_SOURCE_SPLIT_PAGE.{png,svg}.

  A source without images keeps its rows in the table and is named; from files
  alone, all splits are ranked.
  """
  rows, widths = [], []
  for source in sources:
    try:
      read = reader(source)
    except InputError as error:
      print(f'gallery: {error}')
      read = None
    for split in splits if source.workdir else source.splits:
      found = inputs.labelled(source, split, 'gallery')
      if found is None:
        continue
      ranked = rank(found.embedding, found.label)
      rows += table(source.name, split, found, ranked)
      widths += summary(source.name, split, found, ranked)
      for page in range(0, len(ranked) if read else 0, PAGE):
        title = f'{source.name}: {split}. Numbers: distance to the class centre'
        figures.save(
          draw(title, found, ranked[page : page + PAGE], read),
          out,
          f'gallery_{source.name}_{split}_{page // PAGE + 1}',
          citations=[source.config['citation']],
        )
  if rows:
    tables.write_csv(out / 'gallery.csv', rows)
    tables.show(widths, 'gallery: distances to the class centre')


if __name__ == '__main__':
  inputs.main(lambda sources, out: analyse(sources, out, splits=SPLIT.value))
