"""Chooses how to find the nearest rows, by size, and says how.

Up to MOST_PAIRS pairs of rows the search is exact. Beyond, an index of FAISS
(Douze et al. 2024, arXiv:2401.08281) proposes candidates, if it is installed:
a graph of neighbours (HNSW; Malkov and Yashunin 2018, arXiv:1603.09320), or,
where whole rows would take too much memory, compressed ones in cells (IVF-PQ;
Jégou, Douze and Schmid 2011). Candidates are ordered by their exact distances.
"""

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from plankton_jax.errors import InputError
from plankton_jax.neighbours import search, spaces

WAYS = ('auto', 'exact', 'hnsw', 'ivfpq')
MOST_PAIRS = 10**11  # of a query and a row: some minutes on two cores
MOST_WHOLE = 2_000_000  # rows that are kept whole, in the graph
LINKS = 32  # of a row in the graph
EFFORT = 128  # rows of the graph that a search keeps in view, at least
SPARE = 10  # candidates of compressed rows, for each neighbour sought
CELLS = 4  # there are as many times the root of the rows
VISITED = 32  # cells in which a query is sought
TRAINED = 64  # rows of a cell that it is fitted to, at most
CODES = 256  # of a part of a compressed row; it takes as many rows to fit them
BLOCK = 2**14  # rows added or sought at a time
SAMPLE = 1000  # queries whose exact neighbours tell the recall
SEED = 0


class Found(NamedTuple):
  """The nearest K gallery rows of Q queries, nearest first."""

  distance: np.ndarray  # [Q, K] float64
  rows: np.ndarray  # [Q, K]
  how: str  # the way of the search, with its recall if it is not exact
  recall: float = 1.0  # share of the nearest rows, as measured on a sample


def choose(queries: int, rows: int) -> str:
  """Chooses a way to search: 'exact', 'hnsw' or 'ivfpq'."""
  if queries * rows <= MOST_PAIRS or not installed():
    return 'exact'
  return 'hnsw' if rows <= MOST_WHOLE else 'ivfpq'


def installed() -> bool:
  """Tells whether FAISS is there."""
  return importlib.util.find_spec('faiss') is not None


def nearest(
  queries: np.ndarray,
  gallery: np.ndarray | None,
  count: int,
  *,
  way: str = 'auto',
) -> Found:
  """Finds the `count` nearest gallery rows of each query, or nearly so.

  Args:
    queries: [Q, D].
    gallery: [N, D]; None takes the queries, none of which is then its own
      neighbour.
    count: neighbours of each query; fewer if there are fewer rows.
    way: one of WAYS; 'auto' chooses by size.

  Raises:
    InputError: there is no such way, it takes FAISS, which is not installed, or
      more rows.
  """
  if way not in WAYS:
    raise InputError(f'--search={way}: give one of {", ".join(WAYS)}')
  rows = queries if gallery is None else gallery
  chosen = choose(len(queries), len(rows)) if way == 'auto' else way
  count = min(count, len(rows) - (gallery is None))
  if chosen == 'exact' or count < 1 or not len(queries):
    how = 'exact search'
    if way == 'auto' and len(queries) * len(rows) > MOST_PAIRS:
      how += ' (FAISS is much faster: pip install faiss-cpu)'
    return Found(*search.nearest(queries, gallery, count), how)
  if not installed():
    raise InputError(
      f'--search={way} takes FAISS; install it with pip install --requirement'
      ' requirements-search.txt'
    )
  if chosen == 'ivfpq' and len(rows) < CODES:
    raise InputError(
      f'--search=ivfpq takes {CODES} rows or more, not {len(rows)}; give exact'
    )
  distance, found = _approximate(queries, gallery, count, chosen)
  rng = np.random.default_rng(SEED)
  sample = rng.permutation(len(queries))[:SAMPLE]
  own = None if gallery is not None else sample
  reach = _exact(queries[sample], rows, count, own)[0][:, -1:]
  recall = float(np.mean(distance[sample] <= reach))
  name = {'hnsw': 'HNSW', 'ivfpq': 'IVF-PQ'}[chosen]
  return Found(
    distance,
    found,
    f'{name} of FAISS, with {recall:.1%} of the {count} nearest rows, by exact'
    f' search for {len(sample):,} images',
    recall,
  )


def _exact(
  queries: np.ndarray, rows: np.ndarray, count: int, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Searches exactly; `own` [Q] are rows that are not their own neighbours."""
  if own is None:
    return search.nearest(queries, rows, count)
  distance, found = search.nearest(queries, rows, count + 1)
  return _first(distance, found, count, own)


def _first(
  distance: np.ndarray, rows: np.ndarray, count: int, own: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Orders candidates [Q, K] and takes the first, without the `own` rows [Q].

  Equal distances go by row; those of missing rows are infinite.
  """
  if own is not None:
    distance = np.where(rows == own[:, None], np.inf, distance)
  order = np.lexsort((rows, distance), axis=1)[:, :count]
  distance, rows = (np.take_along_axis(x, order, 1) for x in (distance, rows))
  return distance, rows


def _approximate(
  queries: np.ndarray, gallery: np.ndarray | None, count: int, way: str
) -> tuple[np.ndarray, np.ndarray]:
  """Orders the candidates of an index; where it has too few, searches exactly.

  Returns:
    Distances float64 [Q, K] and rows [Q, K].
  """
  rows = queries if gallery is None else gallery
  index = (_graph if way == 'hnsw' else _cells)(rows, count)
  for part in _parts(rows, f'{way}: rows'):
    index.add(_plain(rows[part]))
  wanted = min((count + 1) * (SPARE if way == 'ivfpq' else 1), len(rows))
  distance = np.empty((len(queries), count))
  found = np.empty((len(queries), count), np.int64)
  for part in _parts(queries, f'{way}: queries'):
    _, near = index.search(_plain(queries[part]), wanted)
    own = None
    if gallery is None:
      own = np.arange(len(queries))[part]
    which = np.repeat(np.arange(len(near)), wanted)
    exact = spaces.between(queries[part], which, rows, near.clip(0).ravel())
    exact = np.where(near < 0, np.inf, np.sqrt(exact).reshape(near.shape))
    distance[part], found[part] = _first(exact, near, count, own)
  few = np.flatnonzero(np.isinf(distance[:, -1]))
  if few.size:
    own = few if gallery is None else None
    distance[few], found[few] = _exact(queries[few], rows, count, own)
  return distance, found


def _parts(rows: np.ndarray, name: str) -> Iterator[slice]:
  """Yields slices of rows [N, D], with a progress bar."""
  with tqdm(total=len(rows), desc=name, delay=2, leave=False) as bar:
    for start in range(0, len(rows), BLOCK):
      part = slice(start, min(start + BLOCK, len(rows)))
      yield part
      bar.update(part.stop - start)


def _plain(rows: np.ndarray) -> np.ndarray:
  """Makes rows as FAISS takes them."""
  return np.ascontiguousarray(rows, np.float32)


def _graph(rows: np.ndarray, count: int) -> Any:
  """Makes an empty graph of neighbours for rows [N, D]."""
  index = _faiss().IndexHNSWFlat(rows.shape[1], LINKS)
  index.hnsw.efSearch = max(EFFORT, 2 * count)
  return index


def _cells(rows: np.ndarray, count: int) -> Any:
  """Makes an empty index of cells, fitted to a sample of rows [N, D].

  A row takes a byte for each part of about four dimensions.
  """
  del count  # More candidates come from the same cells.
  size, dim = rows.shape
  cells = int(np.clip(CELLS * np.sqrt(size), 1, max(1, size // TRAINED)))
  bytes_ = max(n for n in range(1, max(2, dim // 4 + 1)) if dim % n == 0)
  # 'np': codes are in no order of their bits, by which nothing is sought here;
  # to find one takes longer than all the rest.
  index = _faiss().index_factory(dim, f'IVF{cells},PQ{bytes_}np')
  for fitted in (index.cp, index.pq.cp):
    fitted.min_points_per_centroid = 1
    fitted.max_points_per_centroid = TRAINED
  index.nprobe = VISITED
  chosen = np.random.default_rng(SEED).permutation(size)
  chosen = chosen[: max(TRAINED * cells, TRAINED * CODES)]
  index.train(_plain(rows[np.sort(chosen)]))
  return index


def _faiss() -> Any:
  with warnings.catch_warnings():
    # Its wrapper lacks what later releases of Python want of one.
    warnings.simplefilter('ignore', DeprecationWarning)
    import faiss

  return faiss
