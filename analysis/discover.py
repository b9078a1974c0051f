"""Finds groups of like images among those that nobody has sorted.

`python -m analysis.discover --workdir=DIR --images=FOLDER` groups the images of
a folder by the density of their embeddings, names the nearest known class of
each group, and draws a page of the most central images, like groups together.
`--export` takes an EcoTaxa export, IFCB bins or FlowCam runs in its place.
Without either it groups the images of --pile; `--encoder=plankton` in place
of the workdir needs no training, and names no class. Images with a label, such
as those in class folders, tell how well groups agree with classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from analysis.files import command, inputs, pile, result, tables
from analysis.files.inputs import Source
from analysis.files.pile import Pile
from analysis.files.result import Result, Shown
from analysis.measures import groups, labeller
from analysis.measures.groups import Groups
from analysis.measures.labeller import Labels
from analysis.page import grouped
from plankton_jax.errors import InputError

SMALLEST = flags.DEFINE_integer(
  'smallest', groups.SMALLEST, 'The fewest images of a group.'
)
AMONG = flags.DEFINE_enum(
  'among', 'all', ['all', 'unknown'], 'Group all, or what no class takes.'
)
for name in ('images', 'export', 'pixel_um', 'pile', 'acceptance', 'search'):
  flags.declare_key_flag(name)  # --help shows it

SHOWN = 12  # groups in the terminal

Row = dict[str, Any]


def known(
  source: Source, embedding: np.ndarray, acceptance: float
) -> tuple[Labels | None, tuple[str, ...], list[str]]:
  """Labels rows by the run's classes, whose names come second, with notes.

  Labels are None without labelled train images.
  """
  if 'train' not in source.splits or source.workdir is None:
    return None, (), ['no train images: groups have no nearest class']
  fitted, notes = labeller.of_run(source, acceptance)
  labels = labeller.label(fitted, embedding, count=1)
  return labels, fitted.gallery.class_names, notes


def table(
  of_pile: Pile, found: Groups, labels: Labels | None, names: Sequence[str]
) -> list[Row]:
  """Makes a line for each group, the largest first."""
  branch = groups.branches(found, grouped.branches(len(found.order)))
  lines = []
  for g, rows in enumerate(found.order):
    line: Row = {
      'group': g,
      'branch': int(branch[g]),
      'images': len(rows),
      'cohesion': float(found.cohesion[g]),
    }
    if labels is not None:
      votes = np.bincount(labels.nearest[rows], minlength=len(names))
      line |= {
        'nearest_class': names[int(votes.argmax())],
        'share_nearest': float(votes.max() / len(rows)),
        'unknown': float(np.mean(labels.distance[rows] > labels.limit[rows])),
      }
    true = of_pile.rows.label[rows]
    if (true >= 0).any():
      counts = np.bincount(true[true >= 0])
      line |= {
        'most_are': of_pile.rows.class_names[counts.argmax()],
        'purity': float(counts.max() / len(rows)),
      }
    lines.append(line | {'most_central': of_pile.rows.id[rows[0]]})
  return tables.filled(lines)


def members(of_pile: Pile, found: Groups) -> list[Row]:
  """Makes a line for each image: its group, and its rank from the centre."""
  rank = np.full(len(found.of), -1)
  for rows in found.order:
    rank[rows] = np.arange(len(rows))
  return [
    {'id': key, 'group': group, 'rank': place}
    for key, group, place in zip(
      of_pile.rows.id.tolist(), found.of.tolist(), rank.tolist(), strict=True
    )
  ]


def joins(found: Groups) -> list[Row]:
  """Tabulates the tree: which two groups or joins meet, and how far apart.

  Joins are numbered on from the groups, the nearest first.
  """
  first = len(found.order)
  return [
    {
      'join': first + i,
      'one': int(one),
      'other': int(other),
      'distance': float(distance),
      'groups': int(size),
    }
    for i, (one, other, distance, size) in enumerate(found.tree)
  ]


def analyse(
  sources: Sequence[Source],
  *,
  images: str | None = None,
  export: str | None = None,
  splits: Sequence[str] = ('unseen',),
  smallest: int = groups.SMALLEST,
  among: str = 'all',
  acceptance: float = 0.95,
  pixel_um: float | None = None,
  way: str = 'auto',
) -> Result:
  """Groups the images of a folder, an export, of splits or of files.

  `way` is that of `choice.nearest`.

  Raises:
    InputError: there are several sources, nothing to group, or an option is out
      of range.
  """
  source = command.one_source(sources, 'discover')
  if smallest < 2:
    raise InputError(f'--smallest={smallest}: a group has 2 images or more')
  command.check_share('acceptance', acceptance)
  every = pile.gather(
    source, images=images, export=export, splits=splits, pixel_um=pixel_um
  )
  labels, names, notes = known(source, every.rows.embedding, acceptance)
  notes = [*every.notes, *notes]
  if among == 'unknown':
    if labels is None or not np.isfinite(labels.limit).all():
      raise InputError(
        f'{source.name}: --among=unknown needs thresholds, from labelled train'
        ' and validation images'
      )
    beyond = np.flatnonzero(labels.distance > labels.limit)
    notes.append(
      f'{len(beyond):,} of {len(labels.limit):,} images lie beyond every class'
    )
    every = every._replace(rows=inputs.take(every.rows, beyond))
    labels = labels.take(beyond)
  if len(every.rows.id) < smallest:
    raise InputError(
      f'{every.name}: {len(every.rows.id)} images to group, fewer than'
      f' --smallest={smallest}'
    )
  found = groups.find(every.rows.embedding, smallest=smallest, way=way)
  if not found.order:
    notes.append('no place is dense enough: give a smaller --smallest')
  lines = table(every, found, labels, names)
  measures: Row = {
    'images': len(found.of),
    'groups': len(found.order),
    'in_groups': int(np.sum(found.of != groups.NONE)),
    'neighbours': found.how,
  }
  labelled = every.rows.label >= 0
  if labelled.all() and len(np.unique(every.rows.label)) > 1:
    measures |= groups.agreement(found, every.rows.label)
  page = grouped.render(
    name=every.name,
    source=source,
    found=found,
    lines=lines,
    measures=measures,
    read=every.read,
    rows=every.rows,
    notes=notes,
  )
  skipped = tables.skipped(every.skipped)
  return Result(
    notes,
    [
      Shown(
        f'discover: {len(lines)} groups of {measures["in_groups"]:,} of'
        f' {len(found.of):,} images, the largest',
        lines[:SHOWN],
        f'neighbours: {found.how}',
      )
    ],
    {
      'groups.csv': lines,
      'images.csv': members(every, found),
      'tree.csv': joins(found),
    },
    {'discover.json': measures},
    {},
    {
      'discover.html': result.content(page),
      'skipped.txt': result.content(skipped) if skipped else None,
    },
    {'discover.html': ' ({size})'},
  )


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  return analyse(
    sources,
    images=command.IMAGES.value,
    export=command.EXPORT.value,
    splits=pile.SPLITS.value,
    smallest=SMALLEST.value,
    among=AMONG.value,
    acceptance=command.ACCEPTANCE.value,
    pixel_um=command.PIXEL_UM.value,
    way=command.SEARCH.value,
  )


if __name__ == '__main__':
  command.run('discover', asked, folder='discover', untrained=True, fast=True)
