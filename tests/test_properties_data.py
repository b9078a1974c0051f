"""Batches and splits of any labels."""

import hypothesis
import numpy as np
import properties
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from plankton_jax.data import classes as classes_of
from plankton_jax.data import splits
from plankton_jax.errors import InputError
from plankton_jax.train import sampling

labels = extra.arrays(np.int32, st.integers(1, 60), elements=st.integers(0, 5))


@st.composite
def samplers(draw):
  """(labels, arguments of a sampler that may not fit them)."""
  classes = draw(st.integers(0, 4))
  per_class = draw(st.sampled_from([0, 1, 2, 5]))
  size = classes * per_class or draw(st.integers(1, 12))
  return draw(labels), {
    'size': size,
    'classes': classes,
    'per_class': per_class,
    'sampling': draw(st.sampled_from(list(sampling.SAMPLING))),
    'seed': draw(st.integers(0, 9)),
  }


def _made(label, arguments):
  """A sampler, or the example is given up with one line of why."""
  try:
    return sampling.Sampler(label, **arguments)
  except InputError as error:
    assert 'batch.' in str(error) and '\n' not in str(error)
    hypothesis.reject()


@given(samplers())
@properties.MANY
def test_batches_hold_distinct_rows_in_any_order_of_asking(case):
  label, arguments = case
  sampler = _made(label, arguments)
  steps = 2 * sampler.steps_per_epoch + 1
  plan = [sampler(step) for step in range(steps)]
  again = sampling.Sampler(label, **arguments)
  for step in reversed(range(steps)):
    np.testing.assert_array_equal(again(step), plan[step])
  size = min(arguments['size'], len(label))
  assert sampler.size == size
  for rows in plan:
    assert len(rows) == len(set(rows.tolist())) == size
    assert rows.min() >= 0 and rows.max() < len(label)
  assert sampler.steps_per_epoch == len(label) // size
  shown = {int(r) for rows in plan[: sampler.steps_per_epoch] for r in rows}
  assert sampler.coverage(0) == pytest.approx(len(shown) / len(label))
  if not arguments['classes'] and arguments['sampling'] == 'images':
    assert len(shown) == sampler.steps_per_epoch * size


@given(samplers())
@properties.MANY
def test_batches_hold_the_classes_asked_for(case):
  label, arguments = case
  hypothesis.assume(arguments['classes'])
  sampler = _made(label, arguments)
  counts = np.bincount(label)
  wanted = min(arguments['classes'], np.count_nonzero(counts))
  for step in range(sampler.steps_per_epoch):
    rows = sampler(step)
    present, found = np.unique(label[rows], return_counts=True)
    if len(present) > wanted:  # further classes join where P hold too little
      held = np.sort(counts[present])[:wanted].sum()
      assert held < arguments['size']
      continue
    # Places are shared evenly, but where a class has no more to give.
    full = found == counts[present]
    if not full.all():
      assert np.ptp(found[~full]) <= 1
      assert found[full].max(initial=0) <= found[~full].min() + 1
      assert len(present) == min(wanted, arguments['size'])


@pytest.mark.parametrize('scheme', sampling.SAMPLING)
@pytest.mark.parametrize(('classes', 'per_class'), [(0, 0), (100, 2)])
def test_ten_thousand_classes_and_one(scheme, classes, per_class):
  arguments = {
    'size': 200,
    'classes': classes,
    'per_class': per_class,
    'sampling': scheme,
    'seed': 0,
  }
  label = np.arange(20_000) % 10_000 * 7
  rows = sampling.Sampler(label, **arguments)(3)
  assert len(set(rows.tolist())) == 200
  if classes:
    assert set(np.unique(label[rows], return_counts=True)[1]) == {2}
  alone = sampling.Sampler(np.full(201, 7), **arguments)
  assert len(set(alone(0).tolist())) == 200


@st.composite
def collections(draw):
  """Arguments of `splits.make`: copies and groups across classes."""
  # From a seed: Hypothesis likes arrays of one value, which cannot be split.
  rng = np.random.default_rng(draw(properties.seeds()))
  num_seen, rows = draw(st.integers(2, 3)), draw(st.integers(30, 60))
  ints = lambda most: rng.integers(0, most + 1, rows)
  groups = ints(draw(st.sampled_from([3, 20, 200])))
  return {
    'labels': ints(num_seen),
    'digests': ints(draw(st.sampled_from([20, 10_000]))).astype(np.uint64),
    'ids': np.array([f'g{g}/{row:02}' for row, g in enumerate(groups)], 'U9'),
    'class_names': [f'class {c}' for c in range(num_seen + 1)],
    'num_seen': num_seen,
    'fractions': draw(st.sampled_from([(0.6, 0.2, 0.2), (0.75, 0.05, 0.2)])),
    'group_regex': draw(st.sampled_from(['', r'^g\d+', r'^g(\d+)/', 'x*'])),
    'rare': draw(st.sampled_from(['gallery', 'drop'])),
    'seed': draw(st.integers(0, 9)),
  }


def _split(case):
  """A split, or the example is given up with one line of why."""
  try:
    return splits.make(**case)
  except InputError as error:
    assert 'too few images to split' in str(error)
    assert '\n' not in str(error)
    hypothesis.reject()


@given(collections())
@properties.MANY
def test_a_split_is_a_partition_that_keeps_copies_and_groups_together(case):
  split = _split(case)
  for name, rows in splits.make(**case).rows.items():
    np.testing.assert_array_equal(rows, split.rows[name])
  label, ids = case['labels'], case['ids']
  parts = [*split.rows.values(), split.dropped]
  np.testing.assert_array_equal(
    np.sort(np.concatenate(parts)), np.arange(len(label))
  )
  rare = {case['class_names'].index(name) for name in split.rare}
  kept = ['rare'] if rare and case['rare'] == 'gallery' else []
  assert list(split.rows) == [*splits.NAMES, 'unseen', *kept]
  for part in parts:
    np.testing.assert_array_equal(part, np.sort(part))
  np.testing.assert_array_equal(
    split.rows['unseen'], np.flatnonzero(label == case['num_seen'])
  )
  unseen = set(case['digests'][split.rows['unseen']].tolist())
  for row in range(len(label)):
    copied = label[row] < case['num_seen'] and (
      int(case['digests'][row]) in unseen
    )
    left_out = int(label[row]) in rare and case['rare'] == 'drop'
    assert (row in split.dropped) == (copied or left_out)
    if kept and int(label[row]) in rare and not copied:
      assert row in split.rows['rare']
  grouped = case['group_regex'].startswith('^')
  side_of = {}
  for name in splits.NAMES:
    for row in split.rows[name]:
      binds = [('digest', int(case['digests'][row]))]
      binds += [('group', ids[row].split('/')[0])] if grouped else []
      for bound in binds:
        assert side_of.setdefault(bound, name) == name
  for c in range(case['num_seen']):
    counts = [(label[split.rows[name]] == c).sum() for name in splits.NAMES]
    if c in rare:
      assert counts == [0, 0, 0]
    else:
      assert counts[0] >= 2 and counts[1] >= 1 and counts[2] >= 1


@given(
  extra.arrays(np.int32, 40, elements=st.integers(0, 2)),
  st.sampled_from([(0.6, 0.2, 0.2), (0.75, 0.05, 0.2), (0.2, 0.3, 0.5)]),
  st.integers(0, 9),
)
def test_images_of_their_own_follow_the_fractions(label, fractions, seed):
  label = np.append(label, np.repeat([0, 1, 2], 8))
  counts = np.bincount(label)
  split = splits.make(
    label,
    np.arange(len(label), dtype=np.uint64),
    np.array([str(row) for row in range(len(label))]),
    class_names=['a', 'b', 'c'],
    num_seen=3,
    fractions=fractions,
    group_regex='',
    rare='gallery',
    seed=seed,
  )
  for c, count in enumerate(counts):
    train, val, test = (
      (label[split.rows[name]] == c).sum() for name in splits.NAMES
    )
    assert train == np.rint(count * fractions[0])
    assert val == max(np.rint(count * fractions[1]), 1)
    assert train + val + test == count


names = st.lists(
  st.text('abc', min_size=1, max_size=3), max_size=8, unique=True
)


@given(names, st.integers(-1, 9) | names, properties.seeds())
def test_classes_are_seen_or_unseen_or_the_reason_is_a_line(
  classes, unseen, seed
):
  hypothesis.assume(classes)
  try:
    ordered, num_seen = classes_of.order(classes, unseen, seed)
  except InputError as error:
    assert '\n' not in str(error)
    return
  assert sorted(ordered) == sorted(classes) and num_seen >= 2
  assert list(ordered[:num_seen]) == sorted(ordered[:num_seen])
  assert list(ordered[num_seen:]) == sorted(ordered[num_seen:])
  if isinstance(unseen, int):
    assert len(classes) - num_seen == unseen
  else:
    assert set(ordered[num_seen:]) == set(unseen)
