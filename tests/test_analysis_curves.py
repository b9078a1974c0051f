import numpy as np
import pytest
from sklearn import metrics, neighbors, preprocessing, svm

from analysis.measures import curves
from tests.analysis_runs import blobs


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(curves, 'RESAMPLINGS', 3)


@pytest.mark.parametrize(
  'most, classes, want',
  [
    (1174, 3, [30, 60, 120, 240, 480, 1174]),
    (480, 3, [30, 60, 120, 240, 480]),
    (481, 40, [60, 120, 240, 481]),
    (44, 3, [44]),
    (46, 3, [30, 46]),
    (5, 2, [5]),
  ],
)
def test_sizes(most, classes, want):
  assert curves.sizes(most, classes).tolist() == want


@pytest.mark.parametrize(
  'most, classes, first, last, count',
  [(3100, 3, 30, 3000, 27), (650, 3, 30, 600, 13), (650, 95, 100, 600, 6)],
)
def test_published_sizes(most, classes, first, last, count):
  found = curves.sizes(most, classes, 'published')
  assert (found[0], found[-1], len(found)) == (first, last, count)
  assert set(found) <= {*range(30, 100, 10), *range(100, 3001, 100)}
  assert set(np.diff(found[found >= 1000])) <= {200}
  assert curves.sizes(20, 3, 'published').tolist() == [20]


def test_published_scaling_and_loss_equal_scikit_learn(few):
  data = blobs([60, 50, 40], noise=0.6)
  rows = data.embedding * np.array([1.0, 100.0, 1.0, 0.01, 1.0, 0.0])
  options = curves.Options('published', 'each', 'hinge')
  (found,) = curves.learn(
    'x', rows, data.label, classifiers=['linear'], options=options
  )
  assert found.sizes.tolist() == [30, 40, 50, 60, 70, 80, 90]
  for seed in range(3):
    train, test = curves.split(data.label, seed)
    scaler = preprocessing.StandardScaler().fit(rows[train[:50]])
    model = svm.LinearSVC(C=1.0, loss='hinge', random_state=0)
    model.fit(scaler.transform(rows[train[:50]]), data.label[train[:50]])
    predicted = model.predict(scaler.transform(rows[test]))
    assert found.scores['balanced accuracy'][seed, 2] == pytest.approx(
      metrics.balanced_accuracy_score(data.label[test], predicted)
    )


def test_split_is_stratified_and_begins_with_every_class():
  labels = np.random.default_rng(0).permutation(
    np.repeat([0, 4, 5, 9], [100, 20, 2, 3])
  )
  seen = set()
  for seed in range(5):
    train, test = curves.split(labels, seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert np.bincount(labels[train])[[0, 4, 5, 9]].tolist() == [65, 13, 1, 2]
    assert sorted(labels[train[:4]]) == [0, 4, 5, 9]
    # The rest is shuffled: no class comes in one run.
    assert 0.4 < np.mean(labels[train[4:44]] == 0) < 1.0
    seen.add(tuple(train))
  assert len(seen) == 5
  again = curves.split(labels, 4)
  np.testing.assert_array_equal(again[0], train)


@pytest.mark.parametrize('name', ['SVC', 'kNN'])
def test_learn_equals_scikit_learn_on_the_rows_themselves(few, name):
  # Both depend on relative distances alone, which centring and scaling leave.
  data = blobs([60, 50, 40], noise=0.6)
  rows = 37.0 * data.embedding.astype(np.float64) + 5.0
  found = {f.classifier: f for f in curves.learn('x', rows, data.label)}[name]
  assert found.sizes.tolist() == [30, 60, 97] and found.chance == 1 / 3
  assert found.unconverged == 0
  for seed in range(3):
    train, test = curves.split(data.label, seed)
    for i, size in enumerate(found.sizes):
      chosen = rows[train[:size]]
      squares = ((chosen - chosen.mean(axis=0)) ** 2).sum(axis=1)
      model = {
        'SVC': svm.SVC(gamma=1.0 / squares.mean()),
        'kNN': neighbors.KNeighborsClassifier(10),
      }[name]
      model.fit(chosen, data.label[train[:size]])
      predicted, true = model.predict(rows[test]), data.label[test]
      got = found.scores['balanced accuracy'][seed, i]
      want = metrics.balanced_accuracy_score(true, predicted)
      assert 0.5 < want < 1.0 and got == pytest.approx(want)
      got = found.scores['macro F1'][seed, i]
      want = metrics.f1_score(true, predicted, average='macro')
      assert got == pytest.approx(want)


def test_learn_separates_blobs_and_guesses_on_noise(few):
  clear = blobs([50, 40], noise=0.05)
  for f in curves.learn('x', clear.embedding, clear.label):
    assert (f.scores['macro F1'] == 1.0).all()
  noise = blobs([200, 200], noise=50.0)
  for f in curves.learn('x', noise.embedding, noise.label):
    assert f.scores['balanced accuracy'].mean() == pytest.approx(0.5, abs=0.06)


def test_learn_from_few_images_and_equal_rows(few):
  tiny = blobs([2, 2])
  for f in curves.learn('x', tiny.embedding, tiny.label):
    assert f.sizes.tolist() == [2]
  steps = []
  rows, labels = np.ones((40, 3), np.float32), np.repeat([0, 1], 20)
  for f in curves.learn('x', rows, labels, step=lambda: steps.append(1)):
    assert f.scores['balanced accuracy'] == pytest.approx(0.5)
  assert len(steps) == 3 * 3


def test_band_by_hand():
  scores = np.array([[0.2, 1.0], [0.4, 1.0], [0.6, 0.7]])
  mean, low, high = curves.band(scores)
  np.testing.assert_allclose(mean, [0.4, 0.9])
  np.testing.assert_allclose(low, [0.4 - 1.96 * 0.2, 0.9 - 1.96 * 0.1732051])
  np.testing.assert_allclose(high, [0.4 + 1.96 * 0.2, 1.0])
