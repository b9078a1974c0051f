"""Stratified splits that keep identical images and groups together."""

import collections

import numpy as np
import pytest

from plankton_jax.data import classes, split_file, splits
from plankton_jax.errors import InputError

FRACTIONS = (0.75, 0.05, 0.20)


def make(labels, digests=None, ids=None, *, num_seen=None, regex='', seed=0):
  labels = np.asarray(labels)
  count = len(labels)
  names = [f'class{i}' for i in range(labels.max() + 1)]
  return splits.make(
    labels,
    np.arange(count, dtype=np.uint64) if digests is None else digests,
    np.array([f'{i}.png' for i in range(count)]) if ids is None else ids,
    class_names=names,
    num_seen=len(names) if num_seen is None else num_seen,
    fractions=FRACTIONS,
    group_regex=regex,
    seed=seed,
  )


def sides(split, count):
  side = np.full(count, 'dropped', dtype=object)
  for name, rows in split.rows.items():
    assert (np.diff(rows) > 0).all() and rows.dtype == np.int64
    assert (side[rows] == 'dropped').all()  # No row on two sides.
    side[rows] = name
  assert (side[split.dropped] == 'dropped').all()
  return side


def test_stratification_is_exact():
  sizes = (1979, 1189, 889, 703, 696, 694, 681, 625, 500)
  labels = np.repeat(np.arange(9), sizes)
  labels = np.random.default_rng(0).permutation(labels)
  split = make(labels, num_seen=6)
  side = sides(split, len(labels))
  for label, size in enumerate(sizes):
    count = collections.Counter(side[labels == label])
    if label >= 6:
      assert count == {'unseen': size}
      continue
    train, val = round(size * 0.75), round(size * 0.05)
    assert count == {'train': train, 'val': val, 'test': size - train - val}
  assert len(split.rows['train']) == 4612


@pytest.mark.parametrize('size', range(4, 40))
def test_small_classes_are_on_every_side(size):
  split = make([0] * size + [1] * 40)
  count = collections.Counter(sides(split, size + 40)[:size])
  val = max(1, round(size * 0.05))
  train = min(round(size * 0.75), size - val - 1)
  assert count == {'train': train, 'val': val, 'test': size - train - val}


def test_too_small_classes_are_named():
  with pytest.raises(InputError, match=r"'class1' has too few .* \(3\): two"):
    make([0] * 40 + [1] * 3)
  with pytest.raises(InputError, match=r"'class0' has too few images .*\(0\)"):
    make([1] * 40 + [2] * 40)


def test_identical_images_stay_together():
  rng = np.random.default_rng(3)
  labels = np.repeat([0, 1, 2], 200)
  digests = rng.integers(0, 400, 600).astype(np.uint64)  # Across classes too.
  for seed in range(5):
    split = make(labels, digests, seed=seed)
    side = sides(split, 600)
    for digest in np.unique(digests):
      assert len(set(side[digests == digest])) == 1
    for label in range(3):
      count = collections.Counter(side[labels == label])
      assert count == {'train': 150, 'val': 10, 'test': 40}


def test_groups_and_duplicates_chain():
  # Images 0-1 share a group, 1-2 pixels, 2-3 a group: all four together.
  digests = np.arange(60, dtype=np.uint64)
  digests[2] = digests[1]
  ids = np.array([f'{i}.png' for i in range(60)])
  ids[:4] = ['s1_a.png', 's1_b.png', 's2_a.png', 's2_b.png']
  for seed in range(10):
    split = make([0] * 30 + [1] * 30, digests, ids, regex=r'^(s\d)', seed=seed)
    assert len(set(sides(split, 60)[:4])) == 1
    counts = [len(split.rows[name]) for name in splits.NAMES]
    assert counts == [44, 4, 12]  # round(22.5) = 22 and round(1.5) = 2 each


def test_large_groups_fill_the_sides_in_proportion():
  rng = np.random.default_rng(1)
  group = rng.integers(0, 120, 3000)
  labels = rng.integers(0, 4, 3000)
  ids = np.array([f'haul{g}/{i}.png' for i, g in enumerate(group)])
  split = make(labels, ids=ids, regex=r'haul\d+')
  side = sides(split, 3000)
  for g in range(120):
    assert len(set(side[group == g])) == 1
  for label in range(4):
    own = side[labels == label]
    for name, fraction in zip(splits.NAMES, FRACTIONS, strict=True):
      assert abs((own == name).mean() - fraction) < 0.02


def test_three_groups_of_a_class_suffice_and_two_do_not():
  ids = np.array([f'g{i // 10}_{i}' for i in range(30)])
  ids = np.concatenate([ids, [f'x{i}' for i in range(40)]])
  labels = [0] * 30 + [1] * 40
  for seed in range(10):
    split = make(labels, ids=ids, regex=r'^g\d', seed=seed)
    assert set(sides(split, 70)[:30]) == {'train', 'val', 'test'}
  with pytest.raises(InputError, match=r"'class0' .*\(30 in 2 independent"):
    make(labels, ids=ids, regex=r'^g(?=[01])|^g2')


def test_the_largest_groups_are_placed_first():
  group = np.repeat(np.arange(21), [60] + [2] * 20)
  ids = np.array([f'g{g}_{i}' for i, g in enumerate(group)])
  labels = [0] * 100 + [1] * 40
  ids = np.concatenate([ids, [f'x{i}' for i in range(40)]])
  for seed in range(5):
    count = collections.Counter(
      sides(make(labels, ids=ids, regex=r'^g\d+', seed=seed), 140)[:100]
    )
    assert abs(count['train'] - 75) <= 1 and abs(count['val'] - 5) <= 1


def test_single_rows_go_to_sides_without_any():
  left, missing = np.array([[-2, 1, 1]]), np.array([[False, False, True]])
  fill = splits._fill(left, missing, np.array([1]))
  np.testing.assert_array_equal(fill, [[0, 0, 1]])
  fill = splits._fill(left, missing[:, [0, 2, 1]], np.array([1]))
  np.testing.assert_array_equal(fill, [[0, 1, 0]])


def test_capture_group_whole_match_and_no_match():
  labels = [0] * 8 + [1] * 8
  ids = np.array([f'{"ab"[i % 2]}-{i:02}.png' for i in range(16)])
  split = make(labels, ids=ids, regex='nothing')
  assert [len(split.rows[n]) for n in splits.NAMES] == [12, 2, 2]
  empty = make(labels, ids=ids, regex='q*')
  np.testing.assert_array_equal(empty.rows['val'], split.rows['val'])
  with pytest.raises(InputError, match='in 2 independent sets'):
    make(labels, ids=ids, regex=r'(.)-\d\d')  # By the letter alone.


def test_seen_copies_of_unseen_images_are_dropped():
  labels = np.repeat([0, 1, 2], 40)
  digests = np.arange(120, dtype=np.uint64)
  digests[[3, 50]] = digests[[90, 91]]
  digests[101] = digests[100]  # Within the unseen class nothing matters.
  split = make(labels, digests, num_seen=2)
  assert split.dropped.tolist() == [3, 50]
  side = sides(split, 120)
  assert (side[80:] == 'unseen').all()
  assert collections.Counter(side[:40])['train'] == round(39 * 0.75)


def test_determined_by_seed():
  labels = np.repeat([0, 1], 100)
  digests = np.random.default_rng(0).integers(0, 150, 200).astype(np.uint64)
  first, again = (make(labels, digests, seed=5).rows for _ in range(2))
  other = make(labels, digests, seed=6).rows
  for name in splits.NAMES:
    np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first[name], other[name])


def test_order_classes():
  names = ['d', 'b', 'c', 'a', 'e']
  assert classes.order(names, ('d', 'a'), 0) == (tuple('bcead'), 3)
  assert classes.order(names, (), 0) == (tuple('abcde'), 5)
  drawn = {classes.order(names, 2, seed)[0][3:] for seed in range(40)}
  assert len(drawn) == 10  # Every pair comes up.
  assert classes.order(names, 2, 7) == classes.order(names, 2, 7)


@pytest.mark.parametrize(
  ('unseen', 'message'),
  [
    (('copepod_calanoida',), "'copepod_calanoida'; did you mean copepod_cala"),
    (('zzz',), "no class 'zzz'; choose from chain, copepod_calanoid, vase"),
    ('vase', r"write \('vase',\)"),
    (2, '1 of 3 classes .* would be seen'),
    (('chain', 'copepod_calanoid', 'vase'), '0 of 3 classes .* would be seen'),
    (4, 'unseen_classes=4 of 3 classes'),
    (-1, 'unseen_classes=-1 of 3'),
  ],
)
def test_unseen_classes_that_cannot_be(unseen, message):
  with pytest.raises(InputError, match=message):
    classes.order(('vase', 'chain', 'copepod_calanoid'), unseen, 0)


def test_one_class_only():
  with pytest.raises(InputError, match=r'only one class \(a\)'):
    classes.order(('a',), (), 0)


@pytest.mark.parametrize(
  'fractions',
  [(0.8, 0.2), (0.8, 0.1, 0.2), (0.8, 0.0, 0.2), (1.2, -0.4, 0.2), ()],
)
def test_bad_fractions(fractions):
  with pytest.raises(InputError, match='must be three positive numbers'):
    splits.check(fractions, '')


def test_bad_group_regex():
  with pytest.raises(InputError, match=r"data.group_regex='\(': "):
    splits.check(FRACTIONS, '(')


def reuse(file, ids, fingerprint='f', seed=0):
  count = len(ids)

  def make_split():
    labels = np.arange(count) % 2
    return make(labels, ids=ids)

  return split_file.reuse_or_make(
    file, ids, make_split, fingerprint=fingerprint, settings={'seed': seed}
  )


def test_split_file_is_reused_and_guards_the_data(tmp_path):
  ids = np.array([f'a/ж {i}.png' for i in range(40)])
  file = tmp_path / 'new' / 'split.json'
  first = reuse(file, ids)
  before = file.read_bytes()
  again = reuse(file, ids)
  assert file.read_bytes() == before
  assert [p.name for p in file.parent.iterdir()] == ['split.json']
  for name in (*splits.NAMES, 'unseen'):
    np.testing.assert_array_equal(first.rows[name], again.rows[name])
    assert again.rows[name].dtype == np.int64
  with pytest.raises(InputError, match=r'2 images are missing .a/ж 38.png, a/'):
    reuse(file, ids[:38], fingerprint='g')
  more = np.concatenate([ids, ['b.png']])
  with pytest.raises(InputError, match=r'1 images are new \(b.png\).*new --wo'):
    reuse(file, more, fingerprint='g')
  with pytest.raises(InputError, match='same names have other contents'):
    reuse(file, ids, fingerprint='g')
  with pytest.raises(InputError, match='data seed = 0, not 1: set it back'):
    reuse(file, ids, seed=1)
  file.write_bytes(before[:100])
  with pytest.raises(InputError, match='is damaged'):
    reuse(file, ids)
