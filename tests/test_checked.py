"""Counts corrected by checked images: estimates, intervals, tables, files."""

import numpy as np
import pytest

from analysis import counts
from analysis.files import checks, inputs, new_images, result, samples
from analysis.measures import checked, counting, prevalence, tallies, trials
from analysis.measures.checked import Checks
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError
from tests.analysis_runs import NAMES, blobs, save, source
from tests.written import read_csv

SIZE = 300


def sample(seed=0, *, right=0.8, shares=(0.6, 0.3, 0.07, 0.03)):
  """A sample's true classes, and probabilities that err."""
  rng = np.random.default_rng(seed)
  true = np.repeat(np.arange(4), np.round(SIZE * np.array(shares)).astype(int))
  said = np.where(rng.random(SIZE) < right, true, rng.choice(4, SIZE))
  chance = 0.7 * np.eye(4)[said] + 0.3 * rng.dirichlet(np.ones(4), SIZE)
  return true, chance


def drawn(true, number, rng):
  rows = rng.choice(len(true), number, replace=False)
  return Checks(rows, true[rows])


@pytest.mark.parametrize('weight', [0.0, 0.6, 1.0])
def test_counts_are_those_of_loops(weight):
  true, chance = sample()
  rng = np.random.default_rng(1)
  each = rng.choice([1.0, 4.0], SIZE)
  checks_ = drawn(true, 60, rng)
  found = checked.correct(chance, checks_, weight, each)
  rest = [i for i in range(SIZE) if i not in set(checks_.rows.tolist())]
  wanted, low, high, seen = np.zeros((4, 4))
  for c in range(4):
    mistakes = [
      each[i] * ((true[i] == c) - weight * chance[i, c]) for i in checks_.rows
    ]
    wanted[c] = sum(weight * each[i] * chance[i, c] for i in rest)
    wanted[c] += len(rest) * np.mean(mistakes)
    seen[c] = sum(each[i] for i in checks_.rows if true[i] == c)
    # Two more images: a class that was missed, and one that was named wrongly.
    mistakes += [each.mean(), -weight * each.mean()]
    middle = sum(weight * each[i] * chance[i, c] for i in rest)
    middle += len(rest) * np.mean(mistakes)
    reach = 1.959964 * np.std(mistakes) * (SIZE * len(rest) / 62) ** 0.5
    low[c], high[c] = middle - reach, middle + reach
  total = sum(each[i] for i in rest)
  wanted *= total / wanted.sum()
  low = np.clip(np.minimum(low, wanted), 0.0, total)
  high = np.clip(np.maximum(high, wanted), 0.0, total)
  for one, other in zip(found, (wanted, low, high), strict=True):
    np.testing.assert_allclose(one, seen + other, rtol=1e-9)
  assert found.objects.sum() == pytest.approx(each.sum())


def test_estimates_have_no_bias_and_intervals_hold_95_percent():
  rng = np.random.default_rng(2)
  for right, number in ((0.9, 40), (0.9, 150), (0.1, 100)):
    true, chance = sample(3, right=right)
    truth = np.bincount(true)
    plain = np.abs(chance.sum(axis=0) - truth).sum()
    errors, inside, widths = [], [], []
    for _ in range(400):
      some = drawn(true, number, rng)
      weight = checked.weigh([(chance, some)])
      one = checked.correct(chance, some, weight, np.ones(SIZE))
      errors.append(one.objects - truth)
      inside.append((one.low <= truth) & (truth <= one.high))
      widths.append(one.high - one.low)
    # Of the rare classes some draws show none: those stay at 0 or above.
    assert np.abs(np.mean(errors, axis=0)).max() < 0.03 * SIZE < plain
    covered = np.mean(inside, axis=0)
    assert covered.min() > 0.93, (right, number, covered)
    # Not by being as wide as can be: at most 1.5 times what errors need.
    needed = 2 * 1.96 * np.std(errors, axis=0)[:2]
    assert (np.mean(widths, axis=0)[:2] < 1.5 * needed).all()


def test_a_good_classifier_narrows_what_checks_alone_tell():
  true, chance = sample(4, right=0.95)
  some = drawn(true, 60, np.random.default_rng(5))
  weight = checked.weigh([(chance, some)])
  helped = checked.correct(chance, some, weight, np.ones(SIZE))
  alone = checked.correct(chance, some, 0.0, np.ones(SIZE))
  width = (helped.high - helped.low)[:2] / (alone.high - alone.low)[:2]
  assert (width < 0.7).all(), width
  # Without a mistake among the checked, an interval still has one in view.
  sure = np.eye(4)[true]
  found = checked.correct(sure, some, 1.0, np.ones(SIZE))
  np.testing.assert_allclose(found.objects, np.bincount(true))
  assert (found.high - found.objects > 0.03 * SIZE).all()


def test_all_checked_is_exact():
  true, chance = sample()
  found = checked.correct(
    chance, Checks(np.arange(SIZE), true), 1.0, np.full(SIZE, 2.0)
  )
  for part in found:
    np.testing.assert_array_equal(part, 2.0 * np.bincount(true))


def test_an_unknown_volume_stays_unknown():
  true, chance = sample()
  some = drawn(true, 50, np.random.default_rng(0))
  found = checked.correct(chance, some, 1.0, np.full(SIZE, np.nan))
  assert all(np.isnan(part).all() for part in found)


def test_the_weight_is_the_slope_within_samples():
  pairs = []
  rng = np.random.default_rng(6)
  both = own = 0.0
  for seed in range(2):
    true, chance = sample(seed, right=0.6)
    some = drawn(true, 80, rng)
    pairs.append((chance, some))
    for c in range(4):
      x, y = chance[some.rows, c], (some.true == c).astype(float)
      both += np.sum((x - x.mean()) * (y - y.mean()))
      own += np.sum((x - x.mean()) ** 2)
  assert 0.3 < both / own < 0.95
  assert checked.weigh(pairs) == pytest.approx(both / own)
  assert checked.weigh(iter([])) == 1.0
  flat = np.full((9, 3), 1 / 3)
  assert checked.weigh([(flat, Checks(np.arange(3), np.arange(3)))]) == 1.0
  wrong = np.eye(2)[[1, 1, 0, 0]]
  assert (
    checked.weigh([(wrong, Checks(np.arange(4), np.repeat([0, 1], 2)))]) == 0
  )


def test_the_trial_draws_samples_and_checks_of_them(monkeypatch):
  monkeypatch.setattr(trials, 'SIMULATED', 12)
  monkeypatch.setattr(trials, 'CHECKS', (20, 80, 100))  # not all of a sample
  rng = np.random.default_rng(7)
  true = np.repeat(np.arange(4), 100)
  said = np.where(rng.random(400) < 0.8, true, rng.choice(4, 400))
  answers = prevalence.Answers(said, 0.7 * np.eye(4)[said] + 0.3 / 4)
  errors = prevalence.errors(answers, true, np.ones(400))
  apart = trials.Apart(counting.Quantifier(None, np.inf, errors), answers, true)
  few, many = trials.try_checks(apart, 'classify and count', size=100)
  assert (few['checked_images'], many['checked_images']) == (20, 80)
  assert many['error'] < few['error'] < few['error_of_these_alone']
  assert many['width_of_an_interval'] < few['width_of_an_interval']
  assert min(one['intervals_that_hold'] for one in (few, many)) > 0.9


def made(name, images, **parts):
  values = {
    part: np.full(3, 1.0 * i) for i, part in enumerate(tallies.Sample._fields)
  }
  values |= {'name': name, 'method': 'm', 'images': images, **parts}
  return tallies.Sample(**values)


def test_samples_with_too_few_checks_stay_as_they_are():
  chance = np.tile(np.eye(4)[0], (45, 1))
  groups = np.repeat(['a', 'b', 'c'], [20, 20, 5])
  each = np.where(groups == 'b', 3.0, 2.0)
  one = made('a', 20, per_m3=np.full(3, np.nan))
  two, small = made('b', 20), made('c', 5)
  some = {
    'a': Checks(np.arange(9), np.zeros(9, int)),
    'b': Checks(np.arange(10), np.repeat([0, 3], 5)),
    'c': Checks(np.arange(5), np.full(5, 3)),
  }
  found = tallies.correct([one, two, small], groups, chance, each, some)
  stays, corrected, whole = found
  assert {x.method for x in found} == {'checked'}
  np.testing.assert_array_equal(stays.objects, [3, 3, 3, 0])
  assert np.isnan(stays.per_m3).all() and stays.low[3] == 0.0
  # Half of the checked are of class 3, which nobody predicts: so of the rest.
  np.testing.assert_allclose(corrected.objects, [10, 0, 0, 10])
  np.testing.assert_allclose(corrected.per_m3, [30, 0, 0, 30])
  for low, high in (
    (corrected.low, corrected.high),
    (corrected.per_m3_low / 3, corrected.per_m3_high / 3),
  ):
    np.testing.assert_allclose(low, np.round(low), atol=1e-9)
    np.testing.assert_allclose(high, np.round(high), atol=1e-9)
    assert low[3] >= 5 and high[3] <= 15 and low[3] < 10 < high[3]
  np.testing.assert_array_equal(whole.objects, [0, 0, 0, 5])
  np.testing.assert_array_equal(whole.high, [0, 0, 0, 5])


def items():
  """Four objects, of which two bear one name."""
  ids = ('t1', 'a'), ('t1', 'b'), ('t2', 'b'), ('t2', 'c')
  found = tuple(Object(o, f'{o}.png', sample=s) for s, o in ids)
  rows = inputs.Embeddings(
    np.zeros((4, 2), np.float32),
    np.full(4, -1),
    np.array([item.id for item in found]),
    NAMES,
  )
  return new_images.NewImages('new', rows, found, [])


@pytest.mark.parametrize(
  'text',
  [
    'sample,id,class\nt1,t1//a,ant\nt2,t2//b, sponge \nt2,c,\nt9,z,bee\n',
    'object_id\tobject_annotation_category\tobject_annotation_status\n'
    '[t]\t[t]\t[t]\na\tant\tvalidated\nt2//b\tsponge\tValidated\n'
    'c\tbee\tpredicted\nz\tbee\tvalidated\n',
  ],
)
def test_checked_images_are_read_from_a_list_or_an_export(tmp_path, text):
  path = tmp_path / 'checked.tsv'
  path.write_text(text)
  found, notes = checks.read(path, items())
  assert found == {0: 'ant', 2: 'sponge'}
  assert len(notes) == 2 and 'have no class' in notes[0]
  assert '1 rows are of other images' in notes[1]
  groups = samples.name_groups(items().rows.id, 'sample', items().items)
  by, names = checked.by_sample(found, groups, ('ant', 'bee', 'unknown'))
  assert names == ('ant', 'bee', 'unknown', 'sponge')
  assert {k: [part.tolist() for part in v] for k, v in by.items()} == {
    't1': [[0], [0]],
    't2': [[0], [3]],
  }


def test_another_spelling_is_no_class_of_its_own():
  names = ('Ant', 'bee_1', 'bee 1', 'unknown')
  given = {0: ' UNKNOWN', 1: 'ant', 2: 'Bee 1', 3: 'bee 1', 4: 'Ant'}
  by, found = checked.by_sample(given, np.zeros(5, int), names)
  # Of Bee 1 there are two spellings: it is a name of its own.
  assert found == (*names, 'Bee 1')
  assert by['0'].true.tolist() == [3, 0, 4, 2, 0]


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('', 'no column id .it has no rows'),
    ('id,name\na,ant\n', 'no column class .it has id, name'),
    ('id,class\na,ant\na,bee\n', 'line 3: a is bee here and ant before'),
    ('id,class\nb,ant\n', 'none of its 1 rows gives a class .* as t1//a'),
    ('PK\3\4', 'not a readable Excel workbook'),
  ],
)
def test_a_bad_table_is_told_in_one_line(tmp_path, text, match):
  path = tmp_path / 'checked.csv'
  path.write_text(text)
  with pytest.raises(InputError, match=match):
    checks.read(path, items())
  with pytest.raises(InputError, match='no table of checked images'):
    checks.read(tmp_path / 'none.csv', items())


@pytest.fixture(scope='module')
def corrected(tmp_path_factory):
  """A run that draws a list, and takes 15 images of each sample as checked."""
  folder = tmp_path_factory.mktemp('checked')
  one = source(
    train=blobs([30, 30, 30], noise=0.5, seed=1),
    val=blobs([12, 12, 12], noise=0.5, seed=2),
    test=blobs([12, 12, 12], noise=0.5, seed=3),
  )
  # Of the second sample most are of a class that nobody trained on.
  rows = [
    blobs([20, 10, 0], noise=0.5, seed=5),
    blobs([5, 0, 0, 45], noise=0.5, seed=6),
  ]
  ids = [f's{k + 1}/{i}' for k, r in enumerate(rows) for i in range(len(r.id))]
  new = inputs.Embeddings(
    np.concatenate([r.embedding for r in rows]),
    np.full(80, -1), np.array(ids), NAMES,
  )  # fmt: skip
  names = [NAMES[label] for r in rows for label in r.label]
  lines = [f'{ids[i]},{names[i]}' for i in [*range(15), *range(30, 45)]]
  filled = folder / 'filled.csv'
  filled.write_text('\n'.join(['id,class', *lines]))
  path = str(save(folder / 'new.npz', new))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trials, 'SIMULATED', 6)
    patch.setattr(trials, 'HALVES', 1)
    found = counts.analyse(
      [one],
      counts.Asked(path, by='^(s.)', draws=2, check=15, checked=str(filled)),
    )
  figures = {'counts': found.figures['counts']}
  result.write(found._replace(figures=figures), folder)
  return found, folder, ids


def test_the_list_to_check_is_drawn_by_sample(corrected):
  _, folder, every = corrected
  lines = read_csv(folder / 'check.csv')
  assert [line['sample'] for line in lines] == ['s1'] * 15 + ['s2'] * 15
  ids = [line['id'] for line in lines]
  assert len(set(ids)) == 30 and set(ids) <= set(every)
  own = [int(id.partition('/')[2]) for id in ids[:15]]
  assert max(own) > 15  # not the first of a sample
  assert {line['class'] for line in lines} == {''}
  assert {line['predicted'] for line in lines} <= {*NAMES[:3], 'unknown'}


def test_a_list_that_is_there_is_never_overwritten(tmp_path, capsys):
  made = result.Result(forms={'check.csv': [{'id': 'a', 'class': ''}]})
  result.write(made, tmp_path)
  assert read_csv(tmp_path / 'check.csv') == [{'id': 'a', 'class': ''}]
  (tmp_path / 'check.csv').write_text('mine')
  result.write(made, tmp_path)
  assert (tmp_path / 'check.csv').read_text() == 'mine'
  assert 'is there already and stays' in capsys.readouterr().out


def test_counts_follow_what_was_checked(corrected):
  found, out, _ = corrected
  lines = read_csv(out / 'counts.csv')
  by = {(line['sample'], line['class']): line for line in lines}
  assert {line['checked'] for line in lines} == {'15'}
  new = by['s2', 'dog']
  assert float(new['low']) <= 45 <= float(new['high'])
  assert float(new['objects']) > 30
  assert float(by['s1', 'dog']['objects']) == 0.0
  for name, total in (('s1', 30), ('s2', 50)):
    own = [line for key, line in by.items() if key[0] == name]
    assert sum(float(line['objects']) for line in own) == pytest.approx(total)
  methods = {line['method'] for line in read_csv(out / 'counts_by_method.csv')}
  assert methods == {*prevalence.METHODS, 'checked'}
  tried = read_csv(out / 'checking.csv')
  assert [line['checked_images'] for line in tried] == ['25']
  notes = '\n'.join(found.notes)
  assert '30 images of 2 samples are checked' in notes
  assert 'counted from checked images alone' in notes and 'dog' in notes


def test_a_few_images_are_no_check(tmp_path):
  with pytest.raises(InputError, match='--check=9: give 10 images'):
    counts.analyse([source()], counts.Asked('new.npz', check=9))
