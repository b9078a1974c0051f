"""Places embeddings on a plane by UMAP or PCA, fitted on train."""

import contextlib
import importlib
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from analysis.files import inputs
from analysis.files.inputs import Embeddings, Source
from analysis.measures import classes
from plankton_jax.errors import InputError
from plankton_jax.neighbours import search

METHODS = ('umap', 'pca')

# UMAP's functions that take seconds to compile, and their modules.
LOOPS = {
  'smooth_knn_dist': 'umap.umap_',
  'compute_membership_strengths': 'umap.umap_',
  'init_transform': 'umap.umap_',
  '_nb_optimize_layout_euclidean_single_epoch': 'umap.layouts',
}
SEED = 0
NEIGHBOURS = 15  # UMAP's own default
SHOWN = ('train', 'test', 'unseen')  # splits, where they exist
MOST = 100_000  # rows of a plane: some minutes for UMAP; more are sampled


class Plane(NamedTuple):
  """The places of each split's rows, [N, 2] float32, and the method used."""

  xy: dict[str, np.ndarray]
  how: str


def shown(source: Source) -> dict[str, Embeddings]:
  """Selects the splits that a projection shows, without empty ones.

  These are train, test and unseen, or all if files have other names. Of more
  than MOST rows draws a sample, from each split and class in proportion.
  """
  found = {s: source.splits[s] for s in _names(source)}
  found = {s: rows for s, rows in found.items() if len(rows.label)}
  if count(source) <= MOST:
    return found
  strata, first = [], 0
  for rows in found.values():
    strata.append(rows.label + 1 + first)
    first += len(rows.class_names) + 1
  chosen = classes.sample(np.concatenate(strata), MOST)
  ends = np.cumsum([len(rows.label) for rows in found.values()])
  parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
  return {
    split: inputs.take(rows, part - (end - len(rows.label)))
    for (split, rows), end, part in zip(found.items(), ends, parts, strict=True)
    if len(part)
  }


def count(source: Source) -> int:
  """Counts the rows that a projection would show without a sample."""
  return sum(len(source.splits[split].label) for split in _names(source))


def sampled(source: Source, splits: dict[str, Embeddings]) -> list[str]:
  """Says how many of a source's rows are in what is shown, if not all."""
  total, kept = count(source), sum(len(rows.id) for rows in splits.values())
  if kept == total:
    return []
  return [
    f'{source.name}: {kept:,} of {total:,} images are shown, drawn by seed from'
    ' each split and class'
  ]


def _names(source: Source) -> list[str]:
  return [s for s in SHOWN if s in source.splits] or list(source.splits)


def project(splits: dict[str, Embeddings], method: str) -> Plane:
  """Fits the plane on train, or on all rows if there is no train split.

  With too few rows for UMAP's neighbourhoods, fits a PCA and says so in `how`.

  Raises:
    InputError: there are no rows, or the splits differ in dimensions.
  """
  if not splits:
    raise InputError('the embedding files hold no rows: embed images first')
  inputs.check_widths('projection', splits)
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


class _Row(NamedTuple):
  """A row of a sparse matrix."""

  data: np.ndarray
  indices: np.ndarray


class _Graph(sparse.csr_matrix):
  """A matrix of neighbours whose rows are taken quickly.

  UMAP takes each of them two or three times, for seconds in all.
  """

  def __getitem__(self, key: Any) -> Any:
    if not isinstance(key, int):
      return super().__getitem__(key)
    own = slice(self.indptr[key], self.indptr[key + 1])
    return _Row(self.data[own], self.indices[own])


def _pca(fitted: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
  """Projects on the two widest directions; a missing one gives zeros."""
  centre = fitted.mean(axis=0, dtype=np.float64)
  _, _, axes = np.linalg.svd(fitted - centre, full_matrices=False)
  axes = axes[:2]
  # A singular vector's sign is arbitrary: make its largest entry positive.
  largest = np.abs(axes).argmax(axis=1)[:, None]
  axes = axes * np.sign(np.take_along_axis(axes, largest, axis=1))
  axes = np.pad(axes, ((0, 2 - len(axes)), (0, 0)))
  return [((x - centre) @ axes.T).astype(np.float32) for x in (fitted, *others)]


def _umap(fitted: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
  """Projects by UMAP on exact neighbours.

  UMAP's own neighbour search would first compile for most of a minute.
  """
  print('UMAP: its first import on a machine takes a while')
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Tensorflow not installed')
    import umap

  _keep_compiled()
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'using precomputed metric')
    warnings.filterwarnings('ignore', 'Transforming new data with precomputed')
    # Distant clusters split its graph, which UMAP lays out anyway.
    warnings.filterwarnings('ignore', '.*[Ss]pectral initiali[sz]ation')
    # A seed fixes the result only if n_jobs is 1.
    reducer = umap.UMAP(
      n_neighbors=NEIGHBOURS, metric='precomputed', random_state=SEED, n_jobs=1
    )
    places = [reducer.fit_transform(_own_graph(fitted))]
    for x in others:
      places.append(reducer.transform(_graph(x, fitted)))
  return places


def _keep_compiled() -> None:
  """Keeps UMAP's loops on disk once they are compiled, which takes seconds.

  It asks numba so for others of its functions, but not for these.
  """
  for name, module in LOOPS.items():
    # Other releases may lack it.
    loop = getattr(importlib.import_module(module), name, None)
    if loop is not None:
      with contextlib.suppress(RuntimeError):  # there is no place to write to
        loop.enable_caching()


def _graph(rows: np.ndarray, fitted: np.ndarray) -> _Graph:
  """Builds the graph [M, N] of each row's neighbours among those fitted."""
  distance, to = search.nearest(rows, fitted, NEIGHBOURS)
  starts = np.arange(0, distance.size + 1, NEIGHBOURS)
  return _Graph(
    (distance.ravel(), to.ravel(), starts), shape=(len(rows), len(fitted))
  )


def _own_graph(rows: np.ndarray) -> _Graph:
  """Builds the symmetric graph [N, N] of all rows' neighbours for UMAP.

  Distances of zero, of a row to itself and between duplicates, are entries too.
  """
  distance, to = search.nearest(rows, None, NEIGHBOURS - 1)
  count = len(to)
  own = np.arange(count)
  here = np.repeat(own, NEIGHBOURS - 1)
  pair = np.minimum(here, to.ravel()) * count + np.maximum(here, to.ravel())
  pair, first = np.unique(pair, return_index=True)
  low, high = np.divmod(pair, count)
  distance = distance.ravel()[first]
  values = np.concatenate([distance, distance, np.zeros(count)])
  at = np.concatenate([low, high, own]), np.concatenate([high, low, own])
  return _Graph((values, at), shape=(count, count))
