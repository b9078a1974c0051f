"""Labels of new rows against loops in float64; examples; degenerate rows."""

import math

import numpy as np
import pytest

from analysis.files.inputs import Embeddings
from analysis.measures import (
  calibration,
  classes,
  labeller,
  unknowns,
  whitened,
)
from tests.analysis_runs import blobs, joined

NO_EXAMPLES = np.arange(0)


def fit(gallery, val=None, examples=NO_EXAMPLES, acceptance=0.95):
  return labeller.fit(gallery, examples, val, acceptance=acceptance)


@pytest.mark.parametrize('block', [classes.ENTRIES, 20])
def test_labels_match_loops(monkeypatch, block):
  monkeypatch.setattr(classes, 'ENTRIES', block)
  gallery, val = blobs([9, 1, 6], seed=1), blobs([40, 30, 30], seed=2)
  new = blobs([4, 4, 4, 4], noise=0.5, seed=3).embedding
  fitted = fit(gallery, val)
  labels = labeller.label(fitted, new, count=5)
  space = fitted.seen.space
  raw = gallery.embedding.astype(np.float64)
  points = whitened.whiten(space, raw)
  rows = whitened.whiten(space, new.astype(np.float64))
  judged = unknowns.judge(fitted.seen, new)
  for i, x in enumerate(rows):
    far = [
      math.dist(x, points[gallery.label == c].mean(axis=0))
      / math.sqrt(1 + 1 / np.sum(gallery.label == c))
      for c in range(3)
    ]
    powers = [math.exp(-(d**2) / fitted.temperature) for d in far]
    chance = [p / sum(powers) for p in powers]
    first, second, _ = sorted(range(3), key=far.__getitem__)
    assert (labels.nearest[i], labels.second[i]) == (first, second)
    assert labels.confidence[i] == pytest.approx(chance[first], rel=1e-5)
    assert labels.second_confidence[i] == pytest.approx(chance[second], 1e-4)
    assert labels.distance[i] == judged.distance[i]
    assert labels.limit[i] == fitted.threshold < np.inf
    near = sorted(math.dist(new[i].astype(np.float64), y) for y in raw)[:5]
    np.testing.assert_allclose(labels.row_distance[i], near, rtol=1e-12)


def test_limits_let_through_what_they_promise():
  gallery = blobs([60, 50, 40], seed=1)
  fitted = fit(gallery, blobs([300, 300, 300], seed=2), acceptance=0.9)
  labels = labeller.label(fitted, blobs([400] * 3, seed=3).embedding, count=1)
  known = labels.distance <= labels.limit
  assert np.mean(known) == pytest.approx(0.9, abs=0.03)
  far = labeller.label(fitted, blobs([200], first=4, seed=4).embedding, count=1)
  assert np.mean(far.distance > far.limit) > 0.9


def test_confidence_is_calibrated_on_validation_images():
  gallery = blobs([60] * 3, noise=0.6, seed=1)
  fitted = fit(gallery, blobs([400] * 3, noise=0.6, seed=2))
  new = blobs([700] * 3, noise=0.6, seed=3)
  labels = labeller.label(fitted, new.embedding, count=1)
  right = labels.nearest == new.label
  assert 0.6 < right.mean() < 0.95
  assert labels.confidence.mean() == pytest.approx(right.mean(), abs=0.03)
  sure = labels.confidence > 0.8
  assert right[sure].mean() == pytest.approx(
    labels.confidence[sure].mean(), abs=0.04
  )


def test_examples_win_where_they_should():
  train, val = blobs([60, 50, 40], seed=1), blobs([40, 30, 25], seed=2)
  new = blobs([30] * 5, seed=5)
  before = labeller.label(fit(train, val), new.embedding, count=1)
  unseen = new.label >= 3
  assert before.nearest.max() < 3
  gallery = joined(train, blobs([4, 4], first=3, seed=4))
  examples = np.arange(150, 158)
  fitted = fit(gallery, val, examples)
  after = labeller.label(fitted, new.embedding, count=5)
  assert np.mean(after.nearest[unseen] == new.label[unseen]) > 0.95
  assert np.mean(after.nearest[~unseen] == new.label[~unseen]) > 0.95
  known = after.distance <= after.limit
  assert (
    np.mean(known[unseen])
    > 0.7
    > np.mean((before.distance <= before.limit)[unseen])
  )
  assert set(examples) & set(after.rows[unseen].ravel())


def test_examples_take_part_in_the_threshold_each_left_out():
  train, val = blobs([60, 50, 40], seed=1), blobs([40, 30, 25], seed=2)
  wide = blobs([40], first=3, noise=0.6, seed=4)
  rows = np.arange(150, 190)
  fitted = fit(joined(train, wide), val, rows)
  _, apart = unknowns.distances_without(fitted.seen, rows)
  both = np.concatenate(
    [
      unknowns.judge(fitted.seen, val.embedding).distance,
      unknowns.score(fitted.seen, apart).distance,
    ]
  )
  rank = math.ceil((95 + 40 + 1) * 0.95)
  assert fitted.threshold == pytest.approx(np.sort(both)[rank - 1])
  assert len(apart.label) == 40


def test_a_few_examples_alone_let_new_images_through():
  # Fewer rows than dimensions: the whitening knows each of them.
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(7, 64))

  def draw(classes, count):
    label = np.repeat(np.arange(classes), count).astype(np.int32)
    rows = centres[label] + 0.3 * rng.normal(size=(len(label), 64))
    ids = np.array([f'{i}' for i in range(len(label))])
    return Embeddings(rows.astype(np.float32), label, ids, tuple('abcdefg'))

  few = draw(6, 6)
  fitted = fit(few, examples=np.arange(36))
  new = draw(7, 60)
  labels = labeller.label(fitted, new.embedding, count=1)
  known = labels.distance <= labels.limit
  assert np.mean(known[new.label < 6]) > 0.85
  assert np.mean(known[new.label == 6]) < 0.1
  alone = draw(6, 1)
  nothing = fit(alone, examples=np.arange(6))
  assert nothing.threshold == np.inf and nothing.temperature == 1.0


@pytest.mark.parametrize('alone', [False, True])
def test_many_images_give_a_temperature_by_some_of_them(monkeypatch, alone):
  """Takes some labelled rows, too; all there are where these are `alone`."""
  gallery = blobs([30, 20, 20], noise=0.6, seed=1)
  val = None if alone else blobs([30, 30, 30], noise=0.6, seed=2)
  examples = np.arange(70) if alone else np.arange(40, 70)
  whole, given = fit(gallery, val, examples), {}

  def temperature(logits, label):
    given['top'], given['label'] = logits.argmax(axis=1), label
    return 3.0

  monkeypatch.setattr(calibration, 'temperature', temperature)
  monkeypatch.setattr(calibration, 'MOST', 3 * 25)  # images of 3 classes
  some = fit(gallery, val, examples)
  assert len(given['label']) == (25 if alone else 25 + 25)
  assert np.mean(given['top'] == given['label']) > 0.7  # each its own class
  assert some.temperature == 3.0 and some.threshold == whole.threshold


def test_without_validation_images_nothing_is_unknown():
  fitted = fit(blobs([5, 5]))
  assert fitted.temperature == 1.0 and fitted.threshold == np.inf
  labels = labeller.label(fitted, blobs([3], first=4).embedding, count=5)
  assert np.isinf(labels.limit).all()
  few = fit(blobs([5, 5]), blobs([9, 9], seed=2))
  assert few.threshold == np.inf and few.temperature != 1.0


def test_one_class_and_one_image():
  gallery = blobs([1])
  labels = labeller.label(
    fit(gallery, blobs([30], seed=2)), blobs([2], seed=3).embedding, count=5
  )
  assert labels.rows.shape == (2, 1)
  assert labels.confidence.tolist() == [1.0, 1.0]
  assert labels.second.tolist() == [0, 0]
  assert labels.second_confidence.tolist() == [0.0, 0.0]


def test_identical_images_are_known():
  same = blobs([8, 8], noise=0.0)
  fitted = fit(same, same._replace(), np.arange(0))
  labels = labeller.label(fitted, same.embedding, count=3)
  assert (labels.nearest == same.label).all()
  assert np.ptp(labels.distance) < 1e-9 and not labels.row_distance.any()
  assert np.isfinite(labels.confidence).all()
  assert (labels.confidence > 0.9).all()


def test_classes_in_one_place_share_the_chance():
  rows = np.ones((6, 3), np.float32)
  gallery = blobs([3, 3])._replace(embedding=rows)
  fitted = fit(gallery, gallery)
  labels = labeller.label(fitted, rows[:2], count=2)
  np.testing.assert_allclose(labels.confidence, 0.5)
  np.testing.assert_allclose(labels.second_confidence, 0.5)
