"""The space on a plane: UMAP or PCA fitted on train, applied to the rest.

`python -m analysis.projection --workdir=DIR [--method=pca]`. Axes carry no
unit. Distances on the plane are no distances of the embedding, so nothing is
measured here.
"""

import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib.lines import Line2D

from analysis import figures, inputs, tables
from analysis.figures import plt
from analysis.inputs import Embeddings, Source
from plankton_jax.errors import InputError

METHODS = ('umap', 'pca')
METHOD = flags.DEFINE_enum(
  'method', 'umap', METHODS, 'Projection onto the plane; pca is the fast one.'
)

SEED = 0
NEIGHBOURS = 15  # UMAP's own default
UNLABELLED = 'unlabelled'
SHOWN = ('train', 'test', 'unseen')
# Size and opacity: train is the ground on which the others are read.
DOTS = {'train': (5, 0.25), 'test': (11, 0.8), 'unseen': (14, 0.85)}


class Plane(NamedTuple):
  """Where each split's rows fall, [N, 2] float32, and how that was found."""

  xy: dict[str, np.ndarray]
  how: str


class Panel(NamedTuple):
  """One source as it is drawn."""

  name: str
  splits: dict[str, Embeddings]
  plane: Plane


def shown(source: Source) -> dict[str, Embeddings]:
  """The splits that a projection shows: train, test and unseen, or, from files
  of other names, all; empty ones are left out."""
  names = [s for s in SHOWN if s in source.splits] or list(source.splits)
  return {s: source.splits[s] for s in names if len(source.splits[s].label)}


def project(splits: dict[str, Embeddings], method: str) -> Plane:
  """Fits the plane on train, or on all rows where there is no train split.

  Too few rows for UMAP's neighbourhoods give a PCA, which `how` says. Raises
  InputError where there is no row, or where the splits' widths differ.
  """
  if not splits:
    raise InputError('the embedding files hold no rows')
  widths = {rows.embedding.shape[1] for rows in splits.values()}
  if len(widths) > 1:
    raise InputError(
      f'the splits have {sorted(widths)} columns; want one width'
    )
  on = ['train'] if 'train' in splits else list(splits)
  fitted = np.concatenate([splits[split].embedding for split in on])
  how = f'fitted on {" + ".join(on)} ({len(fitted)} rows)'
  if method == 'umap' and len(fitted) <= NEIGHBOURS:
    how += f', PCA since UMAP wants more than {NEIGHBOURS} rows'
    method = 'pca'
  fit, label = (_umap, 'UMAP') if method == 'umap' else (_pca, 'PCA')
  places = fit(fitted, [splits[s].embedding for s in splits if s not in on])
  xy = {}
  for split in on:
    count = len(splits[split].label)
    xy[split], places[0] = places[0][:count], places[0][count:]
  rest = (split for split in splits if split not in on)
  xy |= dict(zip(rest, places[1:], strict=True))
  return Plane({split: xy[split] for split in splits}, f'{label} {how}')


def _pca(fitted: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
  """The two widest directions; a direction that is missing is zero."""
  centre = fitted.mean(axis=0, dtype=np.float64)
  _, _, axes = np.linalg.svd(fitted - centre, full_matrices=False)
  axes = axes[:2]
  # A singular vector's sign is arbitrary: its largest entry is made positive.
  largest = np.abs(axes).argmax(axis=1)[:, None]
  axes = axes * np.sign(np.take_along_axis(axes, largest, axis=1))
  axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
  return [((x - centre) @ axes.T).astype(np.float32) for x in (fitted, *others)]


def _umap(fitted: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
  """UMAP on exact neighbours.

  Its own neighbour search would first compile for most of a minute.
  """
  print('UMAP: its first import on a machine takes a while')
  from sklearn.neighbors import NearestNeighbors

  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Tensorflow not installed')
    import umap

  nearest = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm='brute')
  nearest.fit(fitted)
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'using precomputed metric')
    warnings.filterwarnings('ignore', 'Transforming new data with precomputed')
    # Far clusters leave its graph in pieces, which it lays out all the same.
    warnings.filterwarnings('ignore', '.*[Ss]pectral initiali[sz]ation')
    # n_jobs must be 1 for a seed to fix the result.
    reducer = umap.UMAP(
      n_neighbors=NEIGHBOURS,
      metric='precomputed',
      random_state=SEED,
      n_jobs=1,
    )
    places = [reducer.fit_transform(_graph(nearest))]
    for x in others:
      graph = nearest.kneighbors_graph(x, mode='distance')
      places.append(reducer.transform(graph))
  return places


def _graph(nearest):
  """The symmetric graph [N, N] of all rows' neighbours, as UMAP wants it.

  Distances of zero, to oneself and between duplicates, are entries too.
  """
  from scipy import sparse

  distance, to = nearest.kneighbors(n_neighbors=NEIGHBOURS - 1)
  count = len(to)
  own = np.arange(count)
  here = np.repeat(own, NEIGHBOURS - 1)
  pair = np.minimum(here, to.ravel()) * count + np.maximum(here, to.ravel())
  pair, first = np.unique(pair, return_index=True)
  low, high = np.divmod(pair, count)
  distance = distance.ravel()[first]
  values = np.concatenate([distance, distance, np.zeros(count)])
  at = np.concatenate([low, high, own]), np.concatenate([high, low, own])
  return sparse.csr_matrix((values, at), shape=(count, count))


def classes(sources: Iterable[dict[str, Embeddings]]) -> dict[str, str]:
  """Every class that has rows, in order, with the mark of its points."""
  marks: dict[str, str] = {}
  for splits in sources:
    for split, found in splits.items():
      for label in np.unique(found.label[found.label >= 0]):
        marks.setdefault(found.class_names[label], _mark(split))
  return marks


def colours(names: Iterable[str]) -> dict[str, tuple[float, ...]]:
  """One colour a class, the same wherever the suite draws points."""
  names = list(names)
  shades = figures.palette(len(names))
  return dict(zip(names, shades, strict=True)) | {UNLABELLED: (0.6, 0.6, 0.6)}


def table(panel: Panel) -> list[dict[str, Any]]:
  """A plane as rows of a table, in the order of the embedding files."""
  return [
    {
      'source': panel.name,
      'split': split,
      'id': key,
      'class': found.class_names[label] if label >= 0 else UNLABELLED,
      'x': f'{x:.5g}',
      'y': f'{y:.5g}',
    }
    for split, found in panel.splits.items()
    for key, label, (x, y) in zip(
      found.id, found.label, panel.plane.xy[split], strict=True
    )
  ]


def draw(panels: Sequence[Panel]) -> plt.Figure:
  """One panel a source; a class has one colour and one mark across panels."""
  marks = classes(panel.splits for panel in panels)
  colour = colours(marks)
  width = 6.0 * len(panels)
  longest = max(map(len, [*marks, *DOTS]))
  columns = max(1, int(width / (0.075 * longest + 0.45)))
  deep = 0.2 * -(-(len(marks) + len(DOTS)) // columns)
  figure = plt.figure(figsize=(width, 6.4 + deep))
  grid = figure.add_gridspec(
    *(2, len(panels)),
    height_ratios=(6.4, deep),
    **{'left': 0.01, 'right': 0.99, 'bottom': 0.02, 'top': 0.93},
    **{'hspace': 0.02, 'wspace': 0.03},
  )
  axes = [figure.add_subplot(grid[0, i]) for i in range(len(panels))]
  for ax, panel in zip(axes, panels, strict=True):
    ax.set(title=f'{panel.name}\n{panel.plane.how}', xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color='0.85')
    for split, found in panel.splits.items():
      named = np.append(found.class_names, UNLABELLED)[found.label]
      area, opacity = DOTS.get(split, DOTS['test'])
      ax.scatter(
        *panel.plane.xy[split].T,
        c=[colour[name] for name in named],
        s=area,
        alpha=opacity,
        marker=_mark(split),
        edgecolors='black' if split == 'unseen' else 'none',
        linewidths=0.3,
        rasterized=True,  # thousands of vector dots make a slow SVG
      )
  entries = [(mark, colour[name], 1.0, name) for name, mark in marks.items()]
  drawn = dict.fromkeys(split for panel in panels for split in panel.splits)
  for split in drawn:
    opacity = DOTS.get(split, DOTS['test'])[1]
    entries.append((_mark(split), (0.3, 0.3, 0.3, 1.0), opacity, f'({split})'))
  handles = [
    Line2D(
      *([0], [0]),
      linestyle='',
      marker=mark,
      color=shade,
      alpha=opacity,
      markeredgecolor='black' if mark == 'D' else 'none',
      markeredgewidth=0.4,
      label=f' {name}',  # one with a leading underscore would be left out
    )
    for mark, shade, opacity, name in entries
  ]
  below = figure.add_subplot(grid[1, :])
  below.axis('off')
  legend = below.legend(handles=handles, loc='upper center', ncols=columns)
  for text in legend.get_texts():
    text.set_parse_math(False)  # names may hold $
  return figure


def _mark(split: str) -> str:
  return 'D' if split == 'unseen' else 'o'


def analyse(sources: list[Source], out: pathlib.Path, *, method: str) -> None:
  """Projects every source by `method`; out/projection.{png,svg,csv,json}."""
  panels = []
  for source in sources:
    splits = shown(source)
    panels.append(Panel(source.name, splits, project(splits, method)))
  summary, rows = [], []
  for panel in panels:
    rows += table(panel)
    counts = {split: len(found.label) for split, found in panel.splits.items()}
    summary.append({'source': panel.name, **counts, 'plane': panel.plane.how})
  tables.write_csv(out / 'projection.csv', rows)
  citations = inputs.citations(sources)
  figures.save(draw(panels), out, 'projection', citations=citations)
  tables.write_json(out / 'projection.json', summary)
  fields = dict.fromkeys(field for row in summary for field in row)
  tables.show(
    [{field: row.get(field, '') for field in fields} for row in summary],
    'projection: rows, and what the plane is',
  )


if __name__ == '__main__':
  inputs.main(lambda sources, out: analyse(sources, out, method=METHOD.value))
