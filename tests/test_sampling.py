import numpy as np
import pytest

from plankton_jax.errors import InputError
from plankton_jax.train import sampling
from plankton_jax.train.sampling import SAMPLING, Sampler

LABELS = np.repeat([0, 1, 2, 3, 4], [40, 30, 25, 12, 5])


def _sampler(
  labels=LABELS, size=16, classes=0, per_class=0, sampling='images', seed=3
):
  return Sampler(
    labels,
    size=size,
    classes=classes,
    per_class=per_class,
    sampling=sampling,
    seed=seed,
  )


@pytest.mark.parametrize('classes', [0, 4])
@pytest.mark.parametrize('sampling', SAMPLING)
def test_batches_are_a_pure_function_of_seed_and_step(classes, sampling):
  fields = {
    'classes': classes,
    'per_class': 4 if classes else 0,
    'sampling': sampling,
  }
  there = [_sampler(**fields)(step) for step in range(30)]
  again = _sampler(**fields)
  for step in reversed(range(30)):
    np.testing.assert_array_equal(again(step), there[step])
  other = _sampler(**fields, seed=4)
  assert not np.array_equal(other(0), there[0])
  assert not np.array_equal(there[0], there[7])  # the next epoch's first


@pytest.mark.parametrize('classes', [0, 4])
@pytest.mark.parametrize('sampling', SAMPLING)
def test_no_image_twice_in_a_batch(classes, sampling):
  sampler = _sampler(
    classes=classes, per_class=4 if classes else 0, sampling=sampling
  )
  for step in range(50):
    rows = sampler(step)
    assert len(rows) == len(np.unique(rows)) == 16
    assert rows.min() >= 0 and rows.max() < len(LABELS)


def test_shuffled_epoch_visits_each_image_once_at_most():
  sampler = _sampler()
  rows = np.concatenate([sampler(s) for s in range(sampler.steps_per_epoch)])
  assert sampler.steps_per_epoch == 112 // 16
  assert len(rows) == len(np.unique(rows)) == 112
  assert sampler.coverage(0) == 1.0
  assert _sampler(size=100).coverage(0) == 100 / 112


def test_classes_by_images():
  sampler = _sampler(classes=4, per_class=4)
  for step in range(40):
    classes, counts = np.unique(LABELS[sampler(step)], return_counts=True)
    assert len(classes) == 4
    np.testing.assert_array_equal(counts, 4)
  covered = {
    row for step in range(sampler.steps_per_epoch) for row in sampler(step)
  }
  assert sampler.coverage(0) == len(covered) / len(LABELS)
  # 112 draws without order would cover 1 - 1/e = 63 % on average.
  assert sampler.coverage(0) > 0.8


def test_a_small_class_gives_all_it_has_and_others_fill_its_place():
  sampler = _sampler(classes=2, per_class=8)
  seen_small = False
  for step in range(60):
    labels, counts = np.unique(LABELS[sampler(step)], return_counts=True)
    counts = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    if 4 in counts:
      seen_small = True
      assert counts.pop(4) == 5
      assert list(counts.values()) == [11]
    else:
      assert list(counts.values()) == [8, 8]
  assert seen_small


@pytest.mark.parametrize('classes', [8, 16])
def test_where_classes_are_fewer_all_share_the_batch(classes):
  sampler = _sampler(size=32, classes=classes, per_class=32 // classes)
  for step in range(20):
    # 32 images of five classes, of which one has no more than five.
    counts = np.bincount(LABELS[sampler(step)])
    assert counts[4] == 5
    assert sorted(counts[:4]) == [6, 7, 7, 7]


def test_a_size_without_images_per_class_is_shared():
  sampler = _sampler(size=18, classes=4)
  for step in range(20):
    counts = np.bincount(LABELS[sampler(step)])
    assert sorted(counts[counts > 0]) == [4, 4, 5, 5]


def test_what_an_epoch_has_yet_to_show_is_drawn_first():
  # Classes 0 and 1 had their share: 0.001 images of each are left to show.
  counts, shown = np.full(3, 10), np.array([10, 11, 0])
  rng = np.random.default_rng(0)
  for _ in range(100):
    quota = sampling._classes_by_images(
      rng, counts, shown, size=8, share=np.full(3, 1 / 3), classes=1
    )
    np.testing.assert_array_equal(quota, [0, 0, 8])


def test_every_class_comes_up():
  sampler = _sampler(classes=2, per_class=4, size=8)
  epoch = range(sampler.steps_per_epoch)
  assert {c for s in epoch for c in LABELS[sampler(s)]} == {0, 1, 2, 3, 4}


def _shares(labels, **fields):
  """The share of the rows of 100 epochs that each class has."""
  sampler = _sampler(labels, **fields)
  rows = [sampler(step) for step in range(100 * sampler.steps_per_epoch)]
  return np.bincount(labels[np.concatenate(rows)]) / np.size(rows)


@pytest.mark.parametrize(
  ('sampling', 'weights'),
  [
    ('images', [400, 100, 225, 25]),
    ('sqrt', [20, 10, 15, 5]),
    ('uniform', [1, 1, 1, 1]),
  ],
)
def test_classes_are_drawn_by_the_power_of_their_size(sampling, weights):
  labels = np.repeat(np.arange(4), [400, 100, 225, 25])
  found = _shares(labels, size=8, sampling=sampling)
  # About 75,000 draws: the standard error of a share is below 0.002.
  np.testing.assert_allclose(found, weights / np.sum(weights), atol=0.008)


@pytest.mark.parametrize('sampling', SAMPLING)
def test_classes_by_images_follow_the_same_shares(sampling):
  # Two of sixteen, so that a class is seldom wanted twice in a batch.
  counts = np.array([144, 36] * 8)
  labels = np.repeat(np.arange(16), counts)
  weights = counts ** SAMPLING[sampling]
  found = _shares(labels, classes=2, per_class=4, size=8, sampling=sampling)
  np.testing.assert_allclose(found, weights / weights.sum(), rtol=0.06)


def test_uniform_draws_walk_through_each_class_before_they_repeat():
  labels = np.repeat([0, 1], [300, 20])
  sampler = _sampler(labels, size=10, sampling='uniform')
  epoch = np.concatenate([sampler(s) for s in range(sampler.steps_per_epoch)])
  large, times = np.unique(epoch[labels[epoch] == 0], return_counts=True)
  assert (times == 1).all() and len(large) > 130
  small, times = np.unique(epoch[labels[epoch] == 1], return_counts=True)
  assert len(small) == 20 and np.ptp(times) <= 1
  assert sampler.coverage(0) == (len(large) + 20) / 320


def test_a_class_smaller_than_its_share_gives_all_it_has():
  sampler = _sampler(np.repeat([0, 1], [40, 3]), size=20, sampling='uniform')
  for step in range(10):
    np.testing.assert_array_equal(
      np.bincount((sampler(step) >= 40).astype(int)), [17, 3]
    )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sampling': 'squared'}, 'batch.sampling'),
    ({'classes': 4, 'per_class': 3}, 'is not'),
  ],
)
def test_impossible_batches_are_named(fields, message):
  with pytest.raises(InputError, match=message):
    _sampler(**fields)


@pytest.mark.parametrize('classes', [0, 4, 20])
@pytest.mark.parametrize('sampling', SAMPLING)
def test_a_batch_larger_than_the_images_is_all_of_them(
  classes, sampling, caplog
):
  labels = np.repeat(np.arange(8), 3)
  sampler = _sampler(labels, size=32, classes=classes, sampling=sampling)
  assert sampler.size == 24 and sampler.steps_per_epoch == 1
  for step in range(3):
    assert sorted(sampler(step)) == [*range(24)]
  assert sampler.coverage(0) == 1.0
  assert 'batch.size=32 is more than the 24 training images' in caplog.text
  caplog.clear()
  _sampler(labels, size=24, classes=classes, sampling=sampling)
  assert not caplog.text


@pytest.mark.parametrize(('classes', 'per_class'), [(1, 16), (2, 8), (4, 4)])
def test_further_classes_join_where_the_chosen_ones_are_too_small(
  classes, per_class
):
  labels = np.repeat(np.arange(10), [3] * 8 + [40, 40])
  sampler = _sampler(labels, classes=classes, per_class=per_class)
  for step in range(3 * sampler.steps_per_epoch):
    rows = sampler(step)
    assert len(rows) == len(np.unique(rows)) == 16
    held = np.bincount(labels[rows], minlength=10)
    present = np.flatnonzero(held)
    if len(present) > classes:  # then but for one they give all they have
      assert (held[present] == np.minimum(3, held[present])).sum() + 1 >= len(
        present
      )
    else:
      assert held.sum() == 16
