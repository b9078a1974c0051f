"""Neighbours are found exactly, by parts, or nearly so, by an index."""

import re
import tracemalloc

import numpy as np
import pytest

from plankton_jax.errors import InputError
from plankton_jax.neighbours import choice, search
from tests.reference import squared_loop


def rows_in_order(seed, count, dim=5):
  """Clusters one after another, with copies and rows that are nearly tied."""
  rng = np.random.default_rng(seed)
  rows = np.repeat(rng.normal(size=(8, dim)), -(-count // 8), axis=0)[:count]
  rows += 0.1 * rng.normal(size=rows.shape)
  rows[count // 2 :: 9] = rows[: count - count // 2 : 9]
  rows[1::7] = rows[0] + 1e-7 * rng.normal(size=rows[1::7].shape)
  return rows.astype(np.float32)


def nearest_loop(queries, gallery, count):
  """Distances [Q, K] and rows, by (squared distance, row)."""
  rows = queries if gallery is None else gallery
  dists = squared_loop(queries, rows)
  if gallery is None:
    np.fill_diagonal(dists, np.inf)
  order = np.argsort(dists, axis=1, kind='stable')[:, :count]
  return np.sqrt(np.take_along_axis(dists, order, 1)), order


@pytest.mark.parametrize('alone', [True, False])
@pytest.mark.parametrize('width', [16, 2**13])
def test_parts_of_the_gallery_are_searched_as_the_whole(
  alone, width, monkeypatch
):
  monkeypatch.setattr(search, 'WIDTH', width)
  monkeypatch.setattr(search, 'ENTRIES', 200)
  monkeypatch.setattr(search, 'GROUPS', 2)
  rows = rows_in_order(0, 101)
  queries, gallery = (rows, None) if alone else (30.0 + rows[:20], rows)
  for count in (1, 6):
    distance, found = search.nearest(queries, gallery, count)
    wanted, order = nearest_loop(queries, gallery, count)
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(distance, wanted, rtol=1e-12)


def test_memory_does_not_grow_with_pairs(monkeypatch):
  monkeypatch.setattr(search, 'WIDTH', 64)
  monkeypatch.setattr(search, 'ENTRIES', 64**2)
  rows = rows_in_order(1, 1500, dim=16)
  tracemalloc.start()
  try:
    search.nearest(rows, None, 4)
    _, most = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert most < 20 * rows.nbytes < len(rows) ** 2


faiss = pytest.mark.skipif(not choice.installed(), reason='needs faiss-cpu')


@faiss
@pytest.mark.parametrize('alone', [True, False])
@pytest.mark.parametrize('way', ['hnsw', 'ivfpq'])
def test_an_index_finds_most_and_says_how_many(way, alone, monkeypatch):
  monkeypatch.setattr(choice, 'BLOCK', 97)
  rows = rows_in_order(2, 600, dim=8)
  queries, gallery = (rows, None) if alone else (rows[:50] + 0.01, rows)
  distance, found, how, told = choice.nearest(queries, gallery, 5, way=way)
  wanted, _ = nearest_loop(queries, gallery, 5)
  exact = np.sqrt(
    [
      ((rows[f] - q.astype(float)) ** 2).sum(1)
      for f, q in zip(found, queries, strict=True)
    ]
  )
  np.testing.assert_allclose(distance, exact, rtol=1e-12)
  assert (np.diff(distance, axis=1) >= 0.0).all()
  assert not alone or (found != np.arange(600)[:, None]).all()
  recall = np.mean(distance <= wanted[:, -1:] * (1 + 1e-12))
  assert recall > 0.9 and told == pytest.approx(recall)
  said = re.fullmatch(
    r'(.+) of FAISS, with (.+)% of the 5 nearest rows, .*', how
  )
  assert said[1] == {'hnsw': 'HNSW', 'ivfpq': 'IVF-PQ'}[way]
  assert float(said[2]) == pytest.approx(100 * recall, abs=0.051)


@faiss
def test_queries_with_too_few_candidates_are_sought_exactly(monkeypatch):
  monkeypatch.setattr(choice, 'VISITED', 1)
  rows = rows_in_order(3, 600, dim=8)
  distance, found, *_ = choice.nearest(rows, None, 300, way='ivfpq')
  wanted, order = nearest_loop(rows, None, 300)
  np.testing.assert_array_equal(found, order)
  # Some cells hold enough, others do not; no row is its own neighbour.
  _, some, *_ = choice.nearest(rows, None, 66, way='ivfpq')
  assert (some != np.arange(600)[:, None]).all()
  np.testing.assert_allclose(distance, wanted, rtol=1e-12)


def test_candidates_go_by_distance_then_row_without_their_own():
  distance = np.array([[2.0, 1.0, 2.0, 0.0, np.inf], [3.0, 3.0, 3.0, 0.0, 1.0]])
  rows = np.array([[7, 3, 5, 2, -1], [9, 8, 1, 6, 4]])
  near, found = choice._first(distance, rows, 4, None)
  assert found.tolist() == [[2, 3, 5, 7], [6, 4, 1, 8]]
  assert near.tolist() == [[0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 3.0, 3.0]]
  near, found = choice._first(distance, rows, 3, np.array([2, 8]))
  assert found.tolist() == [[3, 5, 7], [6, 4, 1]]
  assert near.tolist() == [[1.0, 2.0, 2.0], [0.0, 1.0, 3.0]]


@faiss
def test_an_index_fits_the_number_of_rows_and_dimensions():
  rows = rows_in_order(6, 600, dim=9)
  assert choice._graph(rows, 5).hnsw.efSearch == choice.EFFORT
  assert choice._graph(rows, 100).hnsw.efSearch == 200
  for dim, parts in ((9, 1), (8, 2)):
    index = choice._cells(rows[:, :dim], 5)
    # As many cells as have 64 rows each, which are less than 4 roots.
    assert (index.nlist, index.pq.M) == (600 // 64, parts)
    assert index.nprobe == choice.VISITED
  assert choice.nearest(rows[:256], None, 2, way='ivfpq').rows.shape == (256, 2)


def test_the_way_is_chosen_by_size(monkeypatch):
  monkeypatch.setattr(choice, 'installed', lambda: True)
  assert choice.choose(1, 10**8) == 'exact'
  assert choice.choose(10**5, 10**6) == 'exact'
  assert choice.choose(10**5, 2 * 10**6) == 'hnsw'
  assert choice.choose(10**5, 5 * 10**6) == 'ivfpq'
  chosen = []
  monkeypatch.setattr(
    choice, '_approximate', lambda *given: chosen.append(given[-1]) or 1 / 0
  )
  monkeypatch.setattr(choice, 'MOST_PAIRS', 80)
  rows = rows_in_order(4, 9)
  with pytest.raises(ZeroDivisionError):
    choice.nearest(rows, None, 2)
  assert choice.nearest(rows, None, 2, way='exact').how == 'exact search'
  assert choice.nearest(rows[:8], None, 2).how == 'exact search'
  assert chosen == ['hnsw']


def test_without_faiss_search_is_exact_and_says_so(monkeypatch):
  monkeypatch.setattr(choice, 'installed', lambda: False)
  monkeypatch.setattr(choice, 'MOST_PAIRS', 80)
  rows = rows_in_order(5, 9)
  _, found, how, recall = choice.nearest(rows, None, 2)
  np.testing.assert_array_equal(found, nearest_loop(rows, None, 2)[1])
  assert how == 'exact search (FAISS is much faster: pip install faiss-cpu)'
  assert recall == 1.0
  with pytest.raises(InputError, match=r'--search=hnsw .*requirements-search'):
    choice.nearest(rows, None, 2, way='hnsw')
  with pytest.raises(InputError, match='give one of auto, exact, hnsw, ivfpq'):
    choice.nearest(rows, None, 2, way='flat')
  monkeypatch.setattr(choice, 'installed', lambda: True)
  with pytest.raises(InputError, match='takes 256 rows or more, not 9'):
    choice.nearest(rows, None, 2, way='ivfpq')
  for few in (rows[:1], rows[:0]):
    assert choice.nearest(few, None, 2, way='hnsw').rows.shape == (len(few), 0)
  assert choice.nearest(rows[:0], rows, 2, way='hnsw').rows.shape == (0, 2)
  every = choice.nearest(rows[:3], rows, 20, way='exact')
  np.testing.assert_array_equal(every.rows, nearest_loop(rows[:3], rows, 20)[1])
  assert every.rows.shape == (3, 9)
