"""Stratified splits that keep identical images and groups together."""

import collections
import json

import numpy as np
import pytest

from plankton_jax.data import classes, split_file, splits
from plankton_jax.errors import InputError

FRACTIONS = (0.75, 0.05, 0.20)


def make(
  labels,
  digests=None,
  ids=None,
  *,
  num_seen=None,
  regex='',
  seed=0,
  rare='gallery',
  names=None,
):
  labels = np.asarray(labels)
  count = len(labels)
  names = names or [f'class{i}' for i in range(labels.max() + 1)]
  return splits.make(
    labels,
    np.arange(count, dtype=np.uint64) if digests is None else digests,
    np.array([f'{i}.png' for i in range(count)]) if ids is None else ids,
    class_names=names,
    num_seen=len(names) if num_seen is None else num_seen,
    fractions=FRACTIONS,
    group_regex=regex,
    rare=rare,
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
    make([1] * 40)
  # Two others are enough to train on.
  assert make([1] * 40 + [2] * 40).rare == {'class0': '0'}


TAIL = np.repeat(np.arange(6), [40, 40, 3, 2, 1, 4])


def test_rare_classes_are_a_split_of_their_own():
  split = make(TAIL)
  assert split.rare == {'class2': '3', 'class3': '2', 'class4': '1'}
  side = sides(split, len(TAIL))
  assert set(side[(TAIL >= 2) & (TAIL <= 4)]) == {'rare'}
  assert collections.Counter(side[TAIL == 5]) == {
    'train': 2,
    'val': 1,
    'test': 1,
  }
  assert not len(split.dropped)
  # They change nothing for the others.
  common = np.flatnonzero((TAIL < 2) | (TAIL == 5))
  alone = sides(make(np.minimum(TAIL[common], 2)), len(common))
  assert (alone == side[common]).all()
  assert 'rare' not in make([0] * 40 + [1] * 40).rows


def test_rare_classes_that_are_dropped():
  split = make(TAIL, rare='drop')
  assert split.rare.keys() == {'class2', 'class3', 'class4'}
  assert 'rare' not in split.rows
  assert split.dropped.tolist() == list(range(80, 86))


@pytest.mark.parametrize('names', [None, ['a', 'b', 'other', 'd', 'e', 'f']])
def test_rare_classes_that_are_merged(names):
  split = make(TAIL, rare='other', names=names)
  assert split.rare.keys() == {
    *({'class2', 'class3', 'class4'} if names is None else {'d', 'e'})
  }
  side = sides(split, len(TAIL))
  # Six images: round(4.5) = 4 train, one val, one test.
  assert collections.Counter(side[80:86]) == {'train': 4, 'val': 1, 'test': 1}
  names = names or [f'class{i}' for i in range(6)]
  labels, final, seen = classes.arrange(TAIL, names, 6, split.rare, 'other')
  assert seen == len(final) == 4 and 'other' in final
  assert {final[label] for label in labels[80:86]} == {'other'}
  assert [final[label] for label in labels[[0, 40, 86]]] == [
    names[0],
    names[1],
    names[5],
  ]


def test_merged_classes_may_be_too_few():
  labels = np.repeat([0, 1, 2, 3], [40, 40, 2, 1])
  split = make(labels, rare='other')
  assert split.rare == {'class2': '2', 'class3': '1', 'other': '3'}
  assert split.rows['rare'].tolist() == [80, 81, 82]
  names = [f'class{i}' for i in range(4)]
  found, final, seen = classes.arrange(labels, names, 4, split.rare, 'other')
  assert final == ('class0', 'class1', 'other') and seen == 2
  assert found[80:].tolist() == [2, 2, 2]
  with pytest.raises(InputError, match="the class 'other' is unseen"):
    make(labels, rare='other', num_seen=3, names=['a', 'b', 'c', 'other'])


def test_classes_are_ordered_trained_unseen_rare():
  labels = np.arange(5)
  names = ('b', 'c', 'd', 'a', 'e')  # of which a and e are unseen
  for fate in ('gallery', 'drop'):
    found, final, seen = classes.arrange(labels, names, 3, {'b': '1'}, fate)
    assert final == ('c', 'd', 'a', 'e', *(['b'] if fate == 'gallery' else []))
    assert seen == 2 and found.dtype == np.int32
    assert found.tolist() == [4 if fate == 'gallery' else -1, 0, 1, 2, 3]


def test_groups_leave_the_most_classes_on_every_side():
  # Class 1 is in three hauls that hold class 0 too; class 2 in two hauls.
  rng = np.random.default_rng(0)
  haul = np.concatenate(
    [rng.integers(0, 9, 300), [0, 0, 1, 1, 2, 3], [4, 5, 5]]
  )
  labels = np.repeat([0, 1, 2, 3], [300, 6, 3, 40])
  ids = [f'h{h}_{i}' for i, h in enumerate(haul)] + [f'x{i}' for i in range(40)]
  for seed in range(10):
    split = make(labels, ids=np.array(ids), regex=r'^h\d', seed=seed)
    assert split.rare == {'class2': '3 in 2 independent sets'}
    side = sides(split, len(labels))
    assert set(side[labels == 1]) == {'train', 'val', 'test'}
    assert (side[labels == 1] == 'train').sum() >= 2
    for h in range(9):
      assert len(set(side[:309][haul == h]) - {'rare'}) == 1


def test_orders_of_groups_are_tried_until_no_class_is_lacking():
  # Found by search: the largest groups first leave a class off a side.
  labels = np.array([0, 0, 2, 2, 1, 2, 1, 2, 1, 1, 0, 0, 1])
  bound = np.array([2, 4, 1, 0, 4, 0, 0, 4, 4, 5, 3, 1, 1])
  quota = splits._quota(np.bincount(labels), FRACTIONS)
  lacking = [len(a[1]) for a in splits._attempts(labels, bound, quota, 0)]
  assert len(lacking) > 1 and all(lacking[:-1]) and not lacking[-1]
  divided = splits._divide(
    labels, num_classes=3, bound=bound, fractions=FRACTIONS, seed=0
  )
  assert not divided.rare
  for label in range(3):
    on = np.bincount(divided.side[labels == label], minlength=3)
    assert on[0] >= 2 and on[1] >= 1 and on[2] >= 1


def test_a_class_that_its_groups_cannot_spare_is_rare():
  # All in three hauls, each of both classes: one has two images in train.
  labels = np.array([0] * 6 + [1] * 4 + [2] * 40 + [3] * 40)
  haul = [0, 0, 1, 1, 2, 2, 0, 1, 2, 2]
  ids = [f'h{h}_{i}' for i, h in enumerate(haul)] + [f'x{i}' for i in range(80)]
  for seed in range(6):
    split = make(labels, ids=np.array(ids), regex=r'^h\d', seed=seed)
    side = sides(split, 90)
    for label in set(range(4)) - {int(n[5:]) for n in split.rare}:
      count = collections.Counter(side[labels == label])
      assert count['train'] >= 2 and count['val'] and count['test']
    assert not split.rare  # haul 2 can train both classes


def test_an_unknown_fate_is_named():
  with pytest.raises(InputError, match=r"data.rare='keep' must be one of 'gal"):
    splits.check(FRACTIONS, '', 'keep')


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
  # A side that is full gives nothing, though all others miss an image.
  fill = splits._fill(left, np.array([[False, True, True]]), np.array([1]))
  np.testing.assert_array_equal(fill, [[0, 0, 1]])


def test_the_largest_gap_gives_way_and_a_side_overrun_gets_nothing():
  left, missing = np.array([[1, 2, -2]]), np.zeros((1, 3), bool)
  fill = splits._fill(left, missing, np.array([1]))
  np.testing.assert_array_equal(fill, [[0, 1, 0]])


# Two classes of a given split that train, one too small for it, one unseen.
OWN = {
  'a': ('train', 'train', 'train', 'val', 'test'),
  'b': ('train', 'train', 'val', 'test'),
  'c': ('train', 'val', 'test'),
  'd': ('train', 'test'),
}
OWN_SIDES = tuple(side for sides in OWN.values() for side in sides)
OWN_LABELS = np.repeat(np.arange(4), [len(sides) for sides in OWN.values()])


def take(sides=OWN_SIDES, labels=OWN_LABELS, copied=(), num_seen=3, **fields):
  digests = np.arange(len(labels), dtype=np.uint64)
  for row, of in copied:
    digests[row] = digests[of]
  arguments = {'class_names': tuple(OWN), 'num_seen': num_seen, 'rare': 'drop'}
  return splits.take(labels, digests, sides, **arguments | fields)


@pytest.mark.parametrize('rare', ['gallery', 'drop'])
def test_a_split_that_is_there_is_taken(rare):
  # Row 3, of a's validation, is a copy of the unseen row 12; 7 of row 6.
  split = take(
    copied=[(3, 12), (7, 6)],
    labels=OWN_LABELS,
    rare=rare,
    sides=(*OWN_SIDES[:4], 'val', *OWN_SIDES[5:]),
  )
  small = [9, 10, 11]
  rows = {name: found.tolist() for name, found in split.rows.items()}
  assert rows == {
    'train': [0, 1, 2, 5, 6],
    'val': [4, 7],
    'test': [8],
    'unseen': [12, 13],
    **({'rare': small} if rare == 'gallery' else {}),
  }
  assert split.dropped.tolist() == [3, *(small if rare == 'drop' else [])]
  assert split.rare == {'c': '1 in train'}


def test_a_split_that_is_there_without_rare_classes():
  labels, sides = OWN_LABELS[:9], OWN_SIDES[:9]
  split = take(sides, labels, num_seen=2, rare='gallery')
  assert list(split.rows) == [*splits.NAMES, 'unseen']
  assert not len(split.dropped) and not split.rare


def test_copies_of_unseen_images_are_not_trained_on():
  # Without its copy, class b has one image in train.
  with pytest.raises(InputError, match='fewer than two classes in train'):
    take(copied=[(5, 12)])


@pytest.mark.parametrize('name', splits.NAMES)
def test_a_side_that_is_not_there_is_named(name):
  sides = [side if side != name else 'other side' for side in OWN_SIDES]
  with pytest.raises(InputError, match=f'there is no folder {name!r}'):
    take(sides)


def test_a_split_that_is_there_merges_no_classes():
  with pytest.raises(InputError, match='does not go with'):
    take(rare='other')


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
    ((' COPEPOD_CALANOID',), 'did you mean copepod_calanoid'),
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


def test_errors_list_some_of_very_many_classes():
  names = [f'c{number:04}' for number in range(2000)]
  with pytest.raises(InputError, match=r'c0049 and 1,950 more$') as caught:
    classes.choose(names, ('zzz',))
  with pytest.raises(InputError, match=r'c0049 and 1,950 more\) would be seen'):
    classes.order(names, 2000, 0)
  assert len(str(caught.value)) < 500


def test_names_are_found_in_any_unicode_form():
  names = ('a', 'e\u0301', 'i')
  assert classes.choose(names, ('\u00e9', 'a')) == ('a', 'e\u0301')
  assert classes.order(names, ('\u00e9',), 0) == (('a', 'i', 'e\u0301'), 2)


def test_names_that_look_alike_are_doubted():
  names = ('Cope_poda', 'cope poda ', 'a', 'a\u0301', '\u00c1', 'copepoda')
  (line,) = classes.doubts(names)
  assert line.endswith(": 'Cope_poda', 'cope poda '; 'a\u0301', '\u00c1'")
  assert not classes.doubts(('a', 'b', ''))


def test_small_classes_are_drawn_last():
  names = 'abcdefgh'
  for seed in range(20):
    (*_, a, b, c), _ = classes.order(names, 3, seed, small='cdfh')
    assert {a, b, c} < set('abeg')
    found, seen = classes.order(names, 5, seed, small='cdfh')
    assert set(found[seen:]) == {*'abeg', 'c'}
    assert classes.order(names, 3, seed, small=()) == classes.order(
      names, 3, seed
    )


def test_one_class_only():
  with pytest.raises(InputError, match=r'only one class \(a\)'):
    classes.order(('a',), (), 0)


@pytest.mark.parametrize(
  'fractions',
  [(0.8, 0.2), (0.8, 0.1, 0.2), (0.8, 0.0, 0.2), (1.2, -0.4, 0.2), ()],
)
def test_bad_fractions(fractions):
  with pytest.raises(InputError, match='must be three positive numbers'):
    splits.check(fractions, '', 'drop')


def test_bad_group_regex():
  with pytest.raises(InputError, match=r"data.group_regex='\(': "):
    splits.check(FRACTIONS, '(', 'drop')


def reuse(file, ids, fingerprint='f', seed=0, tail=0, **settings):
  count = len(ids)

  def make_split():
    labels = np.arange(count) % 2
    labels[:tail] = 2
    return make(labels, ids=ids)

  return split_file.reuse_or_make(
    file,
    ids,
    make_split,
    fingerprint=fingerprint,
    settings={'seed': seed, **settings},
  )


def test_split_file_keeps_rare_classes(tmp_path):
  ids = np.array([f'{i}.png' for i in range(40)])
  first = reuse(tmp_path / 'split.json', ids, tail=2, rare='gallery')
  again = reuse(tmp_path / 'split.json', ids, tail=2, rare='gallery')
  assert again.rare == first.rare == {'class2': '2'}
  assert again.rows['rare'].tolist() == [0, 1]
  with pytest.raises(InputError, match='data rare = gallery, not drop'):
    reuse(tmp_path / 'split.json', ids, rare='drop')


def test_split_files_of_the_first_version_are_read(tmp_path):
  ids = np.array([f'{i}.png' for i in range(40)])
  file = tmp_path / 'split.json'
  first = reuse(file, ids)
  content = json.loads(file.read_text())
  del content['rare']
  file.write_text(json.dumps(content))
  again = reuse(file, ids, rare='gallery')
  np.testing.assert_array_equal(again.rows['train'], first.rows['train'])
  assert again.rare == {}
  with pytest.raises(InputError, match='data rare = gallery, not other'):
    reuse(file, ids, rare='other')


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


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'settings': 3}, 'no settings'),
    ({'splits': ['train']}, 'no splits'),
    ({'fingerprint': None}, 'no fingerprint'),
    ({'splits': {'train': [], 'val': [], 'test': []}}, "'unseen' is no list"),
    ({'dropped': [{}]}, "'dropped' is no list"),
    ({'dropped': ['x.png']}, "no image 'x.png'"),
    ({'rare': ['a']}, 'rare is no object'),
    ({'rare': {'a': 1}}, 'rare is no object'),
  ],
)
def test_a_split_file_of_another_shape_is_damaged(tmp_path, change, reason):
  ids = np.array([f'a/{i}.png' for i in range(40)])
  file = tmp_path / 'split.json'
  reuse(file, ids)
  whole = json.loads(file.read_text())
  file.write_text(json.dumps(whole | change))
  with pytest.raises(InputError, match=f'is damaged .{reason}.*: delete it'):
    reuse(file, ids)


@pytest.mark.parametrize(
  'content', ['[' * 100_000, 'null', '[]', '{"settings": []}', '\0']
)
def test_a_split_file_that_is_none_has_no_unseen_classes(tmp_path, content):
  file = tmp_path / 'split.json'
  assert split_file.unseen_classes(file) is None
  file.write_text(content)
  assert split_file.unseen_classes(file) is None
  with pytest.raises(InputError, match='is damaged'):
    reuse(file, np.array(['a/0.png']))


def test_images_that_several_classes_hold_are_found():
  digests = np.array([5, 7, 5, 9, 7, 5, 8], np.uint64)
  labels = np.array([1, 2, 0, 3, 2, 1, 3])
  found = splits.contrary(digests, labels)
  assert [rows.tolist() for rows in found] == [[2, 0, 5]]
  digests[3], labels[3] = 7, 0
  found = splits.contrary(digests, labels)
  assert [rows.tolist() for rows in found] == [[2, 0, 5], [3, 1, 4]]
  assert splits.contrary(np.arange(3), labels[:3]) == []
