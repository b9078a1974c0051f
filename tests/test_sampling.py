import numpy as np
import pytest

from plankton_jax.data import sampling
from plankton_jax.errors import InputError

LABELS = np.repeat([0, 1, 2, 3, 4], [40, 30, 25, 12, 5])


def _sampler(labels=LABELS, size=16, classes=0, per_class=0, seed=3):
  return sampling.Sampler(
    labels, size=size, classes=classes, per_class=per_class, seed=seed
  )


@pytest.mark.parametrize('classes', [0, 4])
def test_batches_are_a_pure_function_of_seed_and_step(classes):
  fields = {'classes': classes, 'per_class': 4 if classes else 0}
  there = [_sampler(**fields)(step) for step in range(30)]
  again = _sampler(**fields)
  for step in reversed(range(30)):
    np.testing.assert_array_equal(again(step), there[step])
  other = _sampler(**fields, seed=4)
  assert not np.array_equal(other(0), there[0])
  assert not np.array_equal(there[0], there[7])  # the next epoch's first


@pytest.mark.parametrize('classes', [0, 4])
def test_no_image_twice_in_a_batch(classes):
  sampler = _sampler(classes=classes, per_class=4 if classes else 0)
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


def test_every_class_comes_up():
  sampler = _sampler(classes=2, per_class=4, size=8)
  epoch = range(sampler.steps_per_epoch)
  assert {c for s in epoch for c in LABELS[sampler(s)]} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'size': 113}, 'batch.size=113'),
    ({'classes': 4, 'per_class': 3}, 'is not'),
    ({'classes': 8, 'per_class': 2}, 'batch.classes=8'),
    ({'classes': 1, 'per_class': 16}, 'batch.per_class=16'),
  ],
)
def test_impossible_batches_are_named(fields, message):
  with pytest.raises(InputError, match=message):
    _sampler(**fields)
