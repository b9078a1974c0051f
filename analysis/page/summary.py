"""Makes the report's tables, with one column for each source."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from analysis.files.inputs import Source
from plankton_jax.files import config_file

LIBRARIES = (
  'jax',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'scikit-learn',
  'umap-learn',
  'matplotlib',
  'bokeh',
)
RETRIEVAL = {
  'recall_at_1': 'Recall@1',
  'r_precision': 'R-precision',
  'map_at_r': 'MAP@R',
  'knn_accuracy': 'kNN accuracy, k = 10',
  'nmi': 'NMI of k-means',
  'silhouette': 'Silhouette',
}
NOVELTY = {
  'auroc': 'AUROC',
  'fpr_at_95': 'FPR at 95 % TPR',
  'oscr': 'OSCR',
  'unseen_unknown': 'Unseen called unknown',
  'bray_curtis': 'Bray-Curtis of counts',
}
CONFUSIONS = {'accuracy': 'Accuracy', 'balanced accuracy': 'Balanced accuracy'}
AUDIT = {
  'mostly among others': 'Images mostly among other classes',
  'near-duplicates': 'Pairs of near-duplicates',
  'across splits': 'of them across splits',
}


class Cell(NamedTuple):
  """A value as text, with its 95 % interval if it has one."""

  value: str = ''
  interval: str = ''


class Line(NamedTuple):
  """A measure of every source; without cells, the heading of a group."""

  name: str
  cells: list[Cell]


Read = Callable[[str], Any]  # a part's JSON value by name, or None


def measures(sources: Sequence[Source], read: Read) -> list[Line]:
  """Gathers the parts' measures in groups; drops lines that no source has."""
  names = [source.name for source in sources]
  training = {row['source']: row for row in read('training') or []}
  groups = {
    'Training': [
      _line(names, 'Objective', _objectives(sources)),
      _line(names, 'Epochs', _column(training, 'epochs', '{:.4g}')),
      _line(names, 'Minutes', _column(training, 'minutes', '{:.1f}')),
      _line(names, 'Images a second', _column(training, 'images/s', '{:.0f}')),
    ]
  }
  scores: dict[str, dict[str, dict[str, Any]]] = {}
  for row in read('retrieval') or []:
    of_split = scores.setdefault(row['split'], {})
    of_split.setdefault(row['measure'], {})[row['source']] = row
  apart: dict[str, dict[str, Any]] = {}
  for panel in (read('distances') or {}).get('panels', []):
    if panel['metric'] == 'euclidean':
      apart.setdefault(panel['split'], {})[panel['source']] = panel
  classified = (read('confusions') or {}).get('summary', [])
  for split in dict.fromkeys([*scores, *apart]):
    found = scores.get(split, {})
    title = f'{split[:1].upper()}{split[1:]} images'
    ours = classified if split == 'test' else []
    groups[title] = _by_way(names, ours, CONFUSIONS)
    groups[title] += [
      _line(names, title_, {n: _interval(r) for n, r in found[key].items()})
      for key, title_ in RETRIEVAL.items()
      if key in found
    ]
    ratio = _column(apart.get(split, {}), 'ratio', '{:.2f}')
    groups[title].append(_line(names, 'Distance between / within', ratio))
  groups['Classifiers on unseen classes'] = _learning(names, read)
  groups['Novelty: unseen against test images'] = _by_way(
    names, (read('novelty') or {}).get('scores', []), NOVELTY
  )
  audits = {row['source']: row for row in read('audit') or []}
  groups['Label audit'] = [
    _line(names, title, _column(audits, field, '{:,}'))
    for field, title in AUDIT.items()
  ]
  lines = []
  for title, group in groups.items():
    present = [line for line in group if any(c.value for c in line.cells)]
    lines += [Line(title, []), *present] if present else []
  return lines


def _line(names: Sequence[str], name: str, cells: dict[str, Cell]) -> Line:
  return Line(name, [cells.get(source, Cell()) for source in names])


def _objectives(sources: Sequence[Source]) -> dict[str, Cell]:
  return {
    s.name: Cell(s.config['objective']['name']) for s in sources if s.config
  }


def _column(rows: dict[str, Any], field: str, style: str) -> dict[str, Cell]:
  """Formats a field of each source's row; a missing number is left empty."""
  return {
    name: Cell(style.format(row[field]))
    for name, row in rows.items()
    if row.get(field) is not None
  }


def _interval(row: dict[str, Any]) -> Cell:
  if row['micro'] is None:
    return Cell()
  low, high = row['micro_low'], row['micro_high']
  interval = '' if low is None else f'{low:.3f}–{high:.3f}'
  return Cell(f'{row["micro"]:.3f}', interval)


def _by_way(
  names: Sequence[str], rows: Sequence[dict[str, Any]], titles: dict[str, str]
) -> list[Line]:
  """Lists some fields of rows that say `by` which way they were measured."""
  lines = []
  for way in dict.fromkeys(row['by'] for row in rows):
    by = {row['source']: row for row in rows if row['by'] == way}
    lines += [
      _line(names, f'{title}, {way}', _column(by, field, '{:.3f}'))
      for field, title in titles.items()
    ]
  return lines


def _learning(names: Sequence[str], read: Read) -> list[Line]:
  """Lists the balanced accuracy of classifiers fitted on all their images."""
  lines: dict[str, dict[str, Cell]] = {}
  for curve in (read('classifiers') or {}).get('curves', []):
    last = [draw[-1] for draw in curve['scores']['balanced accuracy']]
    title = (
      f'{curve["classifier"]}, balanced accuracy, {curve["sizes"][-1]:,}'
      ' labelled'
    )
    cell = Cell(f'{sum(last) / len(last):.3f}')
    lines.setdefault(title, {})[curve['features']] = cell
  return [_line(names, title, cells) for title, cells in lines.items()]


def configuration(sources: Sequence[Source]) -> list[Line]:
  """Lists every field of the runs' configs, nested names joined by dots."""
  flat = [config_file.flatten(source.config or {}) for source in sources]
  fields = dict.fromkeys(field for one in flat for field in one)
  return [
    Line(field, [Cell(str(one.get(field, ''))) for one in flat])
    for field in fields
  ]


def versions() -> list[tuple[str, str]]:
  """Lists Python and the libraries that made the report."""
  found = [('python', platform.python_version())]
  for name in LIBRARIES:
    try:
      found.append((name, importlib.metadata.version(name)))
    except importlib.metadata.PackageNotFoundError:
      found.append((name, 'not installed'))
  return found
