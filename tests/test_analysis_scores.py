import numpy as np
import pytest
import threadpoolctl
from scipy.spatial.distance import cdist
from sklearn import metrics
from sklearn.neighbors import KNeighborsClassifier

from analysis.measures import classes, curves, posterior, scores
from plankton_jax.neighbours import search
from tests.analysis_runs import blobs


def test_bootstrap_of_a_proportion_is_its_normal_interval():
  values = np.repeat([1.0, 0.0], [600, 200])
  micro, macro = scores.bootstrap({'hit': values}, np.zeros(800, int))
  mean, low, high = micro['hit']
  reach = 1.96 * np.sqrt(0.75 * 0.25 / 800)
  assert mean == 0.75
  np.testing.assert_allclose(
    [low, high], [mean - reach, mean + reach], atol=3e-3
  )
  assert macro == micro


def test_bootstrap_weighs_images_or_classes():
  labels = np.repeat([3, 7], [90, 10])
  values = {'a': np.repeat([1.0, 0.0], [90, 10]), 'b': np.full(100, 0.25)}
  micro, macro = scores.bootstrap(values, labels)
  assert micro['a'][0] == pytest.approx(0.9)
  # The class means are 1 and 0 in every draw, so their mean never moves.
  assert macro['a'] == (0.5, 0.5, 0.5)
  assert micro['b'] == pytest.approx((0.25, 0.25, 0.25))
  assert 0.82 < micro['a'][1] < 0.88 and 0.92 < micro['a'][2] < 0.98
  again = scores.bootstrap(values, labels)
  assert again == (micro, macro)


def test_a_class_that_is_not_drawn_is_left_out_of_the_mean_over_classes():
  labels = np.array([0] * 9 + [1])
  _, macro = scores.bootstrap({'a': np.full(10, 0.5)}, labels)
  assert macro['a'] == (0.5, 0.5, 0.5)


def test_an_interval_is_of_students_t_within_what_is_possible():
  draws = np.array([0.4, 0.5, 0.6, np.nan])
  reach = 4.30265273 * 0.1  # of three draws, and their standard deviation
  np.testing.assert_allclose(
    scores._interval(0.5, draws, 0.0), (0.5, 0.5 - reach, 0.5 + reach)
  )
  assert scores._interval(0.5, draws, 0.2)[1] == 0.2
  assert scores._interval(0.9, draws, 0.2)[2] == 1.0
  for estimate, few in ((0.5, draws[2:]), (np.nan, draws)):
    assert np.isnan(scores._interval(estimate, few, 0.0)[1:]).all()


def test_halves_are_measured_from_four_rows_on_and_bounded_by_measure():
  values = np.random.default_rng(0).normal(size=40)
  measure = lambda at: dict.fromkeys(('ami', 'nmi'), values[at].mean())
  found = scores.halves(measure, 40)
  assert found['ami'][1] < -0.1 and found['nmi'][1] == 0.0
  assert np.isfinite(scores.halves(measure, 4)['ami']).all()


def test_clusters_of_halves_are_for_so_many_images_times_classes():
  assert scores.reclustered(1000, 1000) and not scores.reclustered(1002, 1000)
  assert scores.reclustered(10**6, 100) and not scores.reclustered(10**6, 101)


def test_bootstrap_of_nothing():
  micro, macro = scores.bootstrap({'a': np.empty(0)}, np.empty(0, int))
  assert np.isnan(micro['a']).all() and np.isnan(macro['a']).all()


@pytest.mark.parametrize('trained', [[20, 30, 15], [2, 1, 3]])
def test_knn_on_train_equals_scikit_learn(trained):
  train, test = (
    blobs(trained, noise=0.8),
    blobs([30, 30, 30], noise=0.8, seed=1),
  )
  _, near = search.nearest(test.embedding, train.embedding, 10)
  hits = scores.knn_hits(near, train.label, test.label)
  model = KNeighborsClassifier(min(10, sum(trained)))
  model.fit(train.embedding, train.label)
  want = model.predict(test.embedding) == test.label
  np.testing.assert_array_equal(hits, want)
  assert 0 < hits.mean() < 1


@pytest.mark.parametrize('counts', [[20, 14, 9], [3, 2, 1], [1, 1]])
def test_knn_leaves_the_image_itself_out(counts):
  rows = blobs(counts, noise=0.8, first=1)
  x, labels = rows.embedding.copy(), rows.label
  if len(x) > 20:
    x[3] = x[8] = x[11]  # duplicates are neighbours, of each other too
  dists = cdist(x.astype(float), x.astype(float))
  want = []
  for i in range(len(x)):
    others = [j for j in np.argsort(dists[i], kind='stable') if j != i]
    votes = np.bincount(labels[others[:10]])
    want.append(votes.argmax() == labels[i])
  _, near = search.nearest(x, None, 10)
  hits = scores.knn_hits(near, labels, labels)
  np.testing.assert_array_equal(hits, want)


def test_knn_of_a_lone_image_is_no_hit():
  rows = blobs([1])
  _, near = search.nearest(rows.embedding, None, 10)
  assert scores.knn_hits(near, rows.label, rows.label).tolist() == [0.0]


def coverage(found):
  """Counts intervals (estimate, low, high) that hold the mean estimate."""
  estimate, low, high = np.array(found).T
  truth = estimate.mean()
  return np.mean((low <= truth) & (truth <= high))


CENTRES = np.random.default_rng(0).normal(size=(24, 16))


def gaussians(rng, count, noise):
  """Images of 24 Gaussian classes: rows [N, 16] and labels [N]."""
  labels = rng.integers(24, size=count)
  return CENTRES[labels] + noise * rng.normal(size=(count, 16)), labels


@pytest.mark.parametrize('count, noise', [(300, 0.7), (1000, 1.5)])
def test_intervals_of_clusters_cover(count, noise, monkeypatch):
  """Clusters are those of the nearest centre, which is quick to find."""
  monkeypatch.setattr(scores, 'HALVES', 10)
  rng = np.random.default_rng(0)
  nmi, ami = [], []
  for _ in range(200):
    x, labels = gaussians(rng, count, noise)
    clusters = cdist(x, CENTRES + 0.3).argmin(axis=1)
    found = scores.halves(
      lambda at, a=labels, b=clusters: scores.agreement(a[at], b[at]), count
    )
    nmi.append(found['nmi'])
    ami.append(found['ami'])
  assert 0.90 <= coverage(nmi) <= 0.99
  assert 0.90 <= coverage(ami) <= 0.99


def map_at_r(x, labels):
  """MAP@R of rows of a dense matrix, as `retrieval` ranks them."""
  far = -2.0 * x @ x.T + (x * x).sum(axis=1)
  np.fill_diagonal(far, np.inf)
  relevant = np.bincount(labels)[labels] - 1
  ranks = np.arange(1, relevant.max() + 1)
  # Only the ranks that count are sorted: in all, most of the test's time.
  near = np.argpartition(far, len(ranks), axis=1)[:, : len(ranks)]
  order = np.argsort(np.take_along_axis(far, near, axis=1), axis=1)
  near = np.take_along_axis(near, order, axis=1)
  hits = labels[near] == labels[:, None]
  counted = (
    hits * (ranks <= relevant[:, None]) * np.cumsum(hits, axis=1) / ranks
  )
  some = relevant > 0
  return (counted.sum(axis=1)[some] / relevant[some]).mean()


@pytest.mark.parametrize('noise, most', [(0.7, 0.99), (1.5, 1.0)])
def test_intervals_of_retrieval_cover(noise, most, monkeypatch):
  """A bootstrap of the queries alone would cover 77 to 80 % here.

  Where few of the six images a class in a half are found, they are too wide.
  """
  monkeypatch.setattr(scores, 'HALVES', 12)
  rng = np.random.default_rng(0)
  found = []
  for _ in range(200):
    x, labels = gaussians(rng, 300, noise)
    measure = lambda at, x=x, y=labels: {'map_at_r': map_at_r(x[at], y[at])}
    found.append(scores.halves(measure, 300)['map_at_r'])
  assert 0.90 <= coverage(found) <= most


def test_intervals_hold_what_kmeans_finds_by_chance():
  """Their width is that of the scores over images that are drawn again."""
  rng = np.random.default_rng(0)
  found = []
  for _ in range(16):
    x, labels = gaussians(rng, 300, 0.7)
    found.append(scores.clustering(x, labels)['nmi'])
  estimate, low, high = np.array(found).T
  reach = 2.093 * estimate.std(ddof=1)
  assert 0.7 * reach < np.mean(np.minimum(high - estimate, estimate - low))
  assert np.mean(estimate - low) < 1.8 * reach


def test_intervals_of_few_and_of_many_rows(monkeypatch):
  values = np.random.default_rng(0).normal(0.5, 0.1, 400)
  measure = lambda at: {'mean': values[at].mean()}
  estimate, low, high = scores.halves(measure, 400)['mean']
  assert estimate == values.mean()
  reach = 2.093 * values.std() / 20
  np.testing.assert_allclose(high - low, 2 * reach, rtol=0.35)
  monkeypatch.setattr(scores, 'LARGEST_HALF', 40)
  _, low, high = scores.halves(measure, 400)['mean']
  np.testing.assert_allclose(high - low, 2 * reach, rtol=0.35)
  assert np.isnan(scores.halves(measure, 3)['mean'][1:]).all()


def test_clusters_of_a_sample_are_compared_with_its_own_labels(monkeypatch):
  monkeypatch.setattr(scores, 'HALVES', 2)
  monkeypatch.setattr(scores, 'CLUSTERED_ROWS', 45)
  rows = blobs([40, 30, 20], noise=0.05)
  assert scores.clustering(rows.embedding, rows.label)['ami'][0] == 1.0


def test_clustering_of_blobs_and_of_noise():
  clear, noise = blobs([40, 30, 20], noise=0.05), blobs([60, 60], noise=50.0)
  for found in scores.clustering(clear.embedding, clear.label).values():
    np.testing.assert_allclose(found, 1.0)
  found = scores.clustering(noise.embedding, noise.label)
  assert abs(found['ami'][0]) < 0.1


def test_clustering_intervals_hold_the_estimate():
  rows = blobs([60, 50, 40], noise=0.5)
  found = scores.clustering(rows.embedding, rows.label)
  for estimate, low, high in found.values():
    assert 0.1 < low < estimate < high < 1.0
  assert found['ami'][0] < found['nmi'][0]


def test_clustering_of_one_class_and_of_equal_rows():
  lone = blobs([5])
  found = scores.clustering(lone.embedding, lone.label)
  assert np.isnan([*found['nmi'], *found['ami']]).all()
  equal = np.ones((6, 3), np.float32)
  found = scores.clustering(equal, np.array([0, 0, 0, 1, 1, 1]))
  assert found['nmi'][0] == 0.0


def test_silhouettes_equal_loops():
  rows = blobs([6, 5, 1], noise=0.5)
  x, labels = rows.embedding.astype(float), rows.label
  dists = cdist(x, x)
  values, of = scores.silhouettes(rows.embedding, labels)
  np.testing.assert_array_equal(of, labels)
  for i, value in enumerate(values):
    means = {
      c: np.mean([dists[i, j] for j in np.flatnonzero(labels == c) if j != i])
      for c in np.unique(labels)
      if np.any((labels == c) & (np.arange(len(x)) != i))
    }
    if labels[i] not in means:
      assert value == 0.0  # alone in its class
      continue
    own = means.pop(labels[i])
    nearest = min(means.values())
    assert value == pytest.approx((nearest - own) / max(own, nearest), abs=1e-5)


def test_silhouettes_of_a_sample():
  rows = blobs([300, 200], noise=0.5)
  every, _ = scores.silhouettes(rows.embedding, rows.label)
  assert every.mean() == pytest.approx(
    metrics.silhouette_score(rows.embedding, rows.label), abs=1e-5
  )
  chosen = classes.sample(rows.label, 250)
  assert np.bincount(rows.label[chosen]).tolist() == [150, 100]
  some, _ = scores.silhouettes(rows.embedding[chosen], rows.label[chosen])
  assert some.mean() == pytest.approx(every.mean(), abs=0.03)


@pytest.mark.parametrize('counts', [[4], [1], [1, 1, 1]])
def test_silhouettes_where_there_are_none(counts):
  rows = blobs(counts)
  values, of = scores.silhouettes(rows.embedding, rows.label)
  assert len(values) == len(of) == 0


@pytest.mark.parametrize('rows', [0, 1, 7, 8])
def test_blocks_hold_every_row_once_and_no_more_than_there_is_room_for(
  monkeypatch, rows
):
  monkeypatch.setattr(classes, 'ENTRIES', 20)
  found = list(classes.blocks(rows, 5))
  held = [np.arange(rows)[block] for block in found]
  np.testing.assert_array_equal(np.concatenate(held), np.arange(rows))
  assert len(found) == max(-(-rows // 4), 1)
  assert max(map(len, held)) <= 4
  assert len(list(classes.blocks(rows, 50))) == max(rows, 1)


def test_products_take_one_thread_of_every_library(monkeypatch):
  counts = []

  def watched(function):
    def watch(*given, **named):
      libraries = threadpoolctl.threadpool_info()
      assert {'blas', 'openmp'} <= {each['user_api'] for each in libraries}
      counts.append({each['num_threads'] for each in libraries})
      return function(*given, **named)

    return watch

  monkeypatch.setattr(scores, 'clusters', watched(scores.clusters))
  monkeypatch.setattr(curves, 'fit', watched(curves.fit))
  monkeypatch.setattr(posterior, '_logits', watched(posterior._logits))
  rows = blobs([6, 6])
  with threadpoolctl.threadpool_limits(limits=2):
    scores.clustering(rows.embedding, rows.label)
    monkeypatch.setattr(scores, 'MOST_CLUSTERED', 1)
    found = scores.clustering(rows.embedding, rows.label)
    assert np.isnan(found['nmi'][1])
    curves.learn('x', rows.embedding, rows.label, classifiers=('kNN',))
    far = rows.embedding[:, :2] ** 2
    posterior.fit(far, rows.label, np.ones(len(far)))
    assert len(counts) > 4 and all(each == {1} for each in counts)
