import functools
import warnings

import numpy as np
import pytest

from plankton_jax import retrieval
from plankton_jax.errors import InputError
from plankton_jax.neighbours import spaces, tiles
from tests import reference

KS = (1, 2, 5)


def random_case(rng):
  return rng.normal(size=(60, 6)), rng.integers(0, 5, 60)


def tied_case(rng):
  """Points of a small grid: many equal distances and duplicates."""
  return rng.integers(-1, 2, (150, 3)), rng.integers(0, 4, 150)


def duplicate_case(rng):
  """Each row thrice, in classes that ignore it, at an irregular position."""
  rows = rng.normal(size=(20, 40))
  return rows[rng.permutation(60) % 20], rng.integers(0, 4, 60)


def singleton_case(rng):
  labels = np.concatenate([np.arange(100, 115), rng.integers(0, 3, 45)])
  return rng.normal(size=(60, 4)), rng.permutation(labels)


def long_tail_case(rng):
  labels = np.minimum(rng.geometric(0.3, size=60), 9)
  return rng.normal(size=(60, 4)) + 0.3 * labels[:, None], labels


def one_class_case(rng):
  return rng.normal(size=(40, 4)), np.full(40, 7)


def shifted_case(rng):
  """Far from the origin, where float32 products lose all digits."""
  return 1e4 + rng.normal(size=(60, 6)), rng.integers(0, 4, 60)


def near_tied_case(rng):
  """Distances equal to seven digits, which float32 alone cannot rank."""
  rows, _ = np.linalg.qr(rng.normal(size=(50, 50)))
  rows *= 1.0 + 1e-8 * rng.normal(size=(50, 1))
  return rows[rng.permutation(150) % 50], rng.integers(0, 4, 150)


def tight_clusters_case(rng):
  """Neighbours so close that float32 products give them negative squares."""
  clusters = rng.integers(0, 3, 60)
  rows = rng.normal(size=(3, 20))[clusters] + 1e-6 * rng.normal(size=(60, 20))
  return rows, np.where(np.arange(60) < 6, 3, clusters)


def tiny_case(rng):
  return 1e-30 * rng.normal(size=(50, 5)), rng.integers(0, 4, 50)


def constant_case(rng):
  return np.ones((30, 3)), rng.integers(0, 3, 30)


CASES = [
  random_case,
  tied_case,
  duplicate_case,
  singleton_case,
  long_tail_case,
  one_class_case,
  shifted_case,
  near_tied_case,
  tight_clusters_case,
  tiny_case,
  constant_case,
]


# As they are; many tiles and a sample, with all tiles shared or hardly any;
# and estimates so low that most rows are scanned alone.
SMALL = {
  (tiles, 'SAMPLE'): 16,
  (tiles, 'BATCH'): 7,
  (tiles, 'GROUP'): 64,
  (spaces, 'CHUNK'): 5,
  (tiles, 'BLOCK'): 8,
}
SIZES = [
  {},
  SMALL,
  SMALL | {(tiles, 'WAITING'): 100},
  SMALL | {(tiles, 'MARGIN'): -1.0},
]


@functools.cache
def _in_loops(case, dtype):
  """Embeddings and labels of a case, and what loops find of each row."""
  embeddings, labels = case(np.random.default_rng(0))
  embeddings = embeddings.astype(dtype)
  return embeddings, labels, reference.retrieval_loop(embeddings, labels, KS)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('sizes', SIZES)
def test_matches_double_loop(case, dtype, sizes, monkeypatch):
  for (module, name), size in sizes.items():
    monkeypatch.setattr(module, name, size)
  embeddings, labels, want = _in_loops(case, dtype)
  rows, measures = retrieval.per_query(embeddings, labels, ks=KS)
  assert list(rows) == [i for i, w in enumerate(want) if w is not None]
  for name, values in measures.items():
    np.testing.assert_allclose(
      values, [want[i][name] for i in rows], rtol=1e-12
    )
  got = retrieval.evaluate(embeddings, labels, ks=KS)
  assert got.pop('queries') == len(rows)
  micro = reference.mean_loop(want, labels)
  macro = reference.mean_loop(want, labels, macro=True)
  expected = micro | {f'macro_{k}': v for k, v in macro.items()}
  assert got == pytest.approx(expected, rel=1e-12)


def test_estimates_from_group_minima(monkeypatch):
  """Enough rows for minima of many columns, in all orders of class."""
  monkeypatch.setattr(tiles, 'SAMPLE', 300)
  rng = np.random.default_rng(1)
  labels = np.sort(np.minimum(rng.geometric(0.05, size=700), 60))
  embeddings = rng.normal(size=(700, 8)) + 0.05 * labels[:, None]
  embeddings[rng.permutation(700)[:200]] = embeddings[:200]
  want = reference.retrieval_loop(embeddings, labels, (1,))
  rows, measures = retrieval.per_query(embeddings, labels, ks=(1,))
  for name, values in measures.items():
    np.testing.assert_allclose(
      values, [want[i][name] for i in rows], rtol=1e-12
    )


def test_some_queries_are_measured_as_among_all():
  rng = np.random.default_rng(3)
  embeddings, labels = rng.normal(size=(60, 4)), rng.integers(0, 5, 60)
  labels[11] = 9  # alone in its class
  rows, every = retrieval.per_query(embeddings, labels, ks=(1, 5))
  some, found = retrieval.per_query(
    embeddings, labels, ks=(1, 5), queries=np.array([40, 11, 3, 58])
  )
  assert some.tolist() == [3, 40, 58]
  for name, values in every.items():
    np.testing.assert_array_equal(found[name], values[np.isin(rows, some)])


def test_hand_computed():
  # From 0: a hit, a miss, a hit; R = 2.
  embeddings = np.array([[0.0], [1.0], [2.0], [3.0]])
  labels = ['a', 'a', 'b', 'a']
  rows, measures = retrieval.per_query(embeddings, labels, ks=(1, 3))
  np.testing.assert_array_equal(rows, [0, 1, 3])
  # Row 1 has rows 0 and 2 at distance 1: row 0 comes first.
  np.testing.assert_allclose(measures['recall_at_1'], [1, 1, 0])
  np.testing.assert_allclose(measures['recall_at_3'], [1, 1, 1])
  np.testing.assert_allclose(measures['r_precision'], [1 / 2, 1 / 2, 1 / 2])
  np.testing.assert_allclose(measures['map_at_r'], [1 / 2, 1 / 2, 1 / 4])


def test_ties_go_to_the_lowest_index():
  embeddings = np.zeros((4, 2), np.float32)
  _, first = retrieval.per_query(embeddings, [0, 0, 1, 1], ks=(1,))
  # Rows 0 and 1 find each other; rows 2 and 3 both meet row 0 first.
  np.testing.assert_array_equal(first['recall_at_1'], [1, 1, 0, 0])


def test_k_beyond_the_gallery_counts_all_of_it():
  got = retrieval.evaluate(np.eye(3), [0, 1, 0], ks=(2, 50))
  assert got['recall_at_50'] == got['recall_at_2'] == 1.0


@pytest.mark.parametrize('labels', [np.arange(5), [3]])
def test_no_queries_gives_nan(labels):
  got = retrieval.evaluate(np.eye(len(labels)), labels)
  assert got.pop('queries') == 0
  assert set(got) >= {'recall_at_10', 'macro_map_at_r', 'r_precision'}
  assert np.isnan(list(got.values())).all()


def test_refuses_bad_input():
  embeddings, labels = np.eye(6, 3), np.arange(6) % 2
  with pytest.raises(InputError, match=r'labels of shape \(5,\) for 6'):
    retrieval.evaluate(embeddings, labels[:5])
  with pytest.raises(InputError, match='empty'):
    retrieval.evaluate(embeddings[:0], labels[:0])
  with pytest.raises(InputError, match='empty'):
    retrieval.evaluate(embeddings[:, :0], labels)
  with pytest.raises(InputError, match='int64'):
    retrieval.evaluate(embeddings.astype(np.int64), labels)
  for k in (0, -1, 1.5):
    with pytest.raises(InputError, match=f'k = {k}'):
      retrieval.evaluate(embeddings, labels, ks=(1, k))
  embeddings[[2, 4]] = np.nan
  with pytest.raises(InputError, match='row 2 is not finite'):
    retrieval.evaluate(embeddings, labels)


def test_matches_pytorch_metric_learning():
  torch = pytest.importorskip('torch')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    calculator = pytest.importorskip(
      'pytorch_metric_learning.utils.accuracy_calculator'
    )
    pytest.importorskip('faiss')
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 8, 400), [90, 91]])
    embeddings = rng.normal(size=(402, 16)) + 0.2 * labels[:, None] % 3
    embeddings = embeddings.astype(np.float32)
    want = calculator.AccuracyCalculator(
      include=(
        'precision_at_1',
        'r_precision',
        'mean_average_precision_at_r',
      ),
      k='max_bin_count',
      device=torch.device('cpu'),
    ).get_accuracy(torch.tensor(embeddings), torch.tensor(labels))
  got = retrieval.evaluate(embeddings, labels)
  for ours, theirs in {
    'recall_at_1': 'precision_at_1',
    'r_precision': 'r_precision',
    'map_at_r': 'mean_average_precision_at_r',
  }.items():
    assert got[ours] == pytest.approx(want[theirs], abs=1e-6)


def test_the_average_over_one_query_is_its_own():
  found = retrieval.averages({'map_at_r': np.array([0.25])}, np.array([7]))
  assert found == {'map_at_r': 0.25, 'macro_map_at_r': 0.25}
