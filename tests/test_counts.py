"""Counts of samples made of known classes, from embeddings to files."""

import csv
import json
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from analysis import counts
from analysis.files import inputs, new_images, samples
from analysis.measures import (
  counting,
  fitted,
  posterior,
  prevalence,
  tallies,
  trials,
)
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError
from tests.analysis_runs import NAMES, blobs, run, save, source

NOISE = 0.55  # so that about one in five is taken for another class
MADE = {'s1': [40, 5, 0], 's2': [2, 8, 30]}  # and unknowns: 6, 0


def made_run():
  return source(
    train=blobs([30, 30, 30], noise=NOISE, seed=1),
    val=blobs([30, 20, 20], noise=NOISE, seed=2),
    test=blobs([25, 25, 25], noise=NOISE, seed=3),
    unseen=blobs([20, 20], first=3, noise=NOISE, seed=4),
  )


def new_file(path):
  """Embeddings of two samples; ids begin with the sample's name."""
  parts, ids = [], []
  for seed, (name, sizes) in enumerate(MADE.items(), 5):
    rows = [blobs(sizes, noise=NOISE, seed=seed)]
    if name == 's1':
      rows.append(blobs([3, 3], first=3, noise=NOISE, seed=seed))
    embedding = np.concatenate([one.embedding for one in rows])
    parts.append(embedding)
    ids += [f'{name}/{i:02}.png' for i in range(len(embedding))]
  rows = inputs.Embeddings(
    np.concatenate(parts), np.full(len(ids), -1), np.array(ids), NAMES
  )
  return save(path, rows)


@pytest.fixture(scope='module')
def counted(tmp_path_factory):
  """The result of one run of the command, and the folder it wrote."""
  folder = tmp_path_factory.mktemp('counts')
  images = str(new_file(folder / 'new.npz'))
  table = folder / 'ecotaxa_export.tsv'
  lines = ['\t'.join(COLUMNS)]
  with np.load(images) as arrays:
    ids = arrays['id'].tolist()
  for i, id in enumerate(ids):
    sample = id.partition('/')[0]
    volume = 50 if sample == 's1' else 999999
    row = (f'{i}.png', id, f'tow {sample}', f'{sample}{i % 2}', 2 + 2 * (i % 2))
    lines.append('\t'.join(map(str, (*row, volume, 100 + i, 10.6))))
  table.write_text('\n'.join(lines) + '\n')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trials, 'SIMULATED', 12)
    patch.setattr(trials, 'ACCEPTANCES', (0.9, 0.95))
    found = made(folder, images, table)
  return found, folder / 'out'


def made(folder, images, table):
  return run(
    counts,
    [made_run()],
    folder / 'out',
    asked=counts.Asked(images, str(table), draws=2, choose_acceptance=True),
  )


COLUMNS = (
  *('img_file_name', 'object_id', 'sample_id', 'acq_id', 'acq_sub_part'),
  *('sample_tot_vol', 'object_area', 'process_pixel'),
)


def read(folder, name):
  with (folder / name).open(encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_objects_add_up_to_the_images_of_each_sample(counted):
  _, folder = counted
  lines = read(folder, 'counts_by_method.csv')
  totals = {}
  for line in lines:
    key = line['sample'], line['method']
    totals[key] = totals.get(key, 0.0) + float(line['objects'])
    assert float(line['low']) <= float(line['objects']) <= float(line['high'])
  assert len(totals) == 2 * 5
  for (sample, _), total in totals.items():
    assert total == pytest.approx(51 if sample == 'tow s1' else 40)
  trusted = read(folder, 'counts.csv')
  assert [line['class'] for line in trusted[:4]] == [*NAMES[:3], 'unknown']


def test_the_correction_is_nearer_to_the_truth_than_plain_counts(counted):
  _, folder = counted
  truth = {'tow s1': [40, 5, 0, 6], 'tow s2': [2, 8, 30, 0]}
  error = {}
  for line in read(folder, 'counts_by_method.csv'):
    at = [*NAMES[:3], 'unknown'].index(line['class'])
    gap = abs(float(line['objects']) - truth[line['sample']][at])
    error[line['method']] = error.get(line['method'], 0.0) + gap
  assert error['expectation-maximisation'] < 0.85 * error['classify and count']


def test_concentrations_are_there_where_a_volume_is(counted):
  found, folder = counted
  lines = read(folder, 'counts.csv')
  known = [line for line in lines if line['sample'] == 'tow s1']
  total = sum(float(line['per_m3']) for line in known)
  # 26 images stand for 2, 25 for 4 objects, in 50 m³.
  assert total == pytest.approx((26 * 2 + 25 * 4) / 50)
  assert {line['per_m3'] for line in lines if line not in known} == {'nan'}
  for line in known:
    bounds = (line[f'per_m3{end}'] for end in ('_low', '', '_high'))
    low, value, high = map(float, bounds)
    assert low <= value <= high
  assert any('40 of 91 objects have no volume' in note for note in found.notes)


def test_spectra_hold_all_objects(counted):
  _, folder = counted
  lines = read(folder, 'spectra.csv')
  assert sum(float(line['objects']) for line in lines) == pytest.approx(91)
  assert all(
    float(line['to_um']) == pytest.approx(float(line['from_um']) * 2 ** (1 / 3))
    for line in lines
  )
  some = next(x for x in lines if x['sample'] == 'tow s1')
  water = sum(float(x['per_m3']) for x in lines if x['sample'] == 'tow s1')
  assert water == pytest.approx((26 * 2 + 25 * 4) / 50)
  width = float(some['to_um']) - float(some['from_um'])
  assert float(some['per_m3_um']) * width == pytest.approx(
    float(some['per_m3'])
  )


def test_what_is_trusted_is_what_errs_least(counted):
  found, folder = counted
  value = json.loads((folder / 'counts.json').read_text())
  errors = {line['method']: line['val_error'] for line in value['methods']}
  assert value['method'] == min(errors, key=errors.get)
  tried = {
    float(line['acceptance']): float(line['classify and count'])
    for line in read(folder, 'acceptance.csv')
  }
  assert value['acceptance'] == min(tried, key=tried.get)
  assert any('Bray-Curtis error is' in note for note in found.notes)
  for name in ('counts', 'methods', 'spectra'):
    assert (folder / f'{name}.png').stat().st_size > 10_000


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch):
  name = 'adjusted probabilistic'  # the fastest of those without bias
  monkeypatch.setattr(counting, 'METHODS', {name: prevalence.METHODS[name]})
  truth = np.array([0.7, 0.2, 0.1])
  draws = np.random.default_rng(11)
  covered, widths = [], []
  for seed in range(12):
    one = source(
      train=blobs([12, 12], noise=NOISE, seed=100 + seed),
      val=blobs([15, 15], noise=NOISE, seed=200 + seed),
    )
    fit = fitted.fit(one, None, acceptance=0.95)
    space = counting.make_space(fit.labeller)
    strange = blobs([30], first=3, noise=NOISE, seed=300 + seed)
    known = counting.gather(space, fit.val, np.array([]), strange)
    sizes = draws.multinomial(60, truth)
    rows = blobs([*sizes[:2], 0, sizes[2]], noise=NOISE, seed=400 + seed)
    placed = counting.place(space, rows.embedding)
    _, (found,) = counting.count(known, np.inf, [placed], draws=40)
    low, high = counting.interval(found.shares[name], found.drawn[name])
    # Of the water, not of the sample that was drawn from it.
    covered.append((low <= truth) & (high >= truth))
    widths.append(high - low)
  assert np.mean(covered) >= 0.8, np.mean(covered)
  assert 0.05 < np.mean(widths) < 0.5


def test_an_interval_is_of_95_percent_and_holds_the_value():
  drawn = np.linspace(0.0, 1.0, 1001)[:, None] * [1.0, 0.1, 1.0]
  low, high = counting.interval(np.array([0.5, 0.5, 0.01]), drawn)
  np.testing.assert_allclose(low, [0.025, 0.0025, 0.01])
  np.testing.assert_allclose(high, [0.975, 0.5, 0.975])


def known_by_hand():
  """Twelve images of two classes and of none, at random places."""
  rng = np.random.default_rng(0)
  placed = counting.Placed(
    rng.integers(0, 2, 12), rng.random(12), rng.random((12, 2))
  )
  true = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
  fresh = np.array([1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0], bool)
  kind = np.where(true == 2, [*[-1] * 9, 5, 5, 6], -1)
  return counting.Known(
    placed, true, np.where(true == 2, 1.5, 1.0), fresh, kind
  )


COUNT = {'count': lambda errors, answers, times: prevalence.count(
  errors, answers, times
)}  # fmt: skip


def test_the_bootstrap_draws_known_images_by_stratum_and_the_sample(
  monkeypatch,
):
  monkeypatch.setattr(counting, 'METHODS', COUNT)
  known, placed = known_by_hand(), known_by_hand().placed.take(np.arange(7))
  fits, estimates = [], []
  fit, estimate = counting.fit, counting.estimate

  def fitted(known, limit, times=None, start=None):
    fits.append((times, fit(known, limit, times, start)))
    return fits[-1][1]

  def estimated(quantifier, answers, times=None):
    found = estimate(quantifier, answers, times)
    estimates.append((quantifier, answers, times, found['count']))
    return found

  monkeypatch.setattr(counting, 'fit', fitted)
  monkeypatch.setattr(counting, 'estimate', estimated)
  whole, (found,) = counting.count(known, 0.6, [placed], draws=6)
  (none, first), *drawn = fits
  assert none is None and whole is first
  for label in range(3):
    for fresh in (False, True):
      own = (known.true == label) & (known.fresh == fresh)
      assert {times[own].sum() for times, _ in drawn} == {own.sum()}
  assert len({tuple(times) for times, _ in drawn}) == 6
  for i, (quantifier, answers, times, share) in enumerate(estimates[:6]):
    assert quantifier is drawn[i][1] and times.sum() == 7
    np.testing.assert_array_equal(
      answers.chance, counting.answer(quantifier.posterior, 0.6, placed).chance
    )
    np.testing.assert_array_equal(found.drawn['count'][i], share)
  assert any(set(times) != {1.0} for _, _, times, _ in estimates[:6])
  assert estimates[6][0] is whole and estimates[6][2] is None
  np.testing.assert_array_equal(found.shares['count'], estimates[6][3])


def test_times_are_repeated_images():
  known = known_by_hand()
  times = np.array([2, 0, 1, 1, 3, 1, 1, 0, 2, 1, 2, 1])
  found = counting.fit(known, 0.6, times)
  want = counting.fit(known.take(np.repeat(np.arange(12), times)), 0.6)
  for one, other in zip(found.errors, want.errors, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)  # where a fit stops


def test_methods_are_tried_on_images_that_were_not_fitted_to(monkeypatch):
  known = known_by_hand()
  half = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0], bool)
  monkeypatch.setattr(trials, 'METHODS', COUNT)
  monkeypatch.setattr(trials, 'SIMULATED', 5)
  monkeypatch.setattr(trials, 'halve', lambda known, rng: half)
  seen = []

  def errors(apart, *, draws, size, rng):
    seen.append(apart)
    return {'count': np.full(draws, size)}

  monkeypatch.setattr(trials, 'errors_of', errors)
  found = trials.validate(known, 0.5, size=9)
  assert found['count'].tolist() == [9] * 8  # 2 of each of 4 halvings
  used = known.take(half)
  limit = counting.set_limit(used, 0.5)
  assert limit == np.median(known.placed.distance[half & known.fresh])
  want = counting.fit(used, limit)
  for quantifier, answers, true in seen:
    assert quantifier.limit == limit
    np.testing.assert_allclose(quantifier.errors.prior, want.errors.prior)
    np.testing.assert_array_equal(true, known.true[~half])
    inside = known.placed.distance[~half] <= limit
    np.testing.assert_array_equal(
      answers.label, np.where(inside, known.placed.nearest[~half], 2)
    )


def test_errors_are_of_the_shares_of_each_drawn_sample(monkeypatch):
  for module in (counting, trials):
    monkeypatch.setattr(module, 'METHODS', COUNT)
  evenness, draw = [], trials.draw

  def drawn(true, even, size, rng):
    evenness.append(even)
    return draw(true, even, size, rng)

  monkeypatch.setattr(trials, 'draw', drawn)
  true = np.repeat([0, 1, 2], 20)
  answers = prevalence.Answers(true, np.eye(3)[true])  # without an error
  quantifier = counting.Quantifier(None, np.inf, None)
  apart = trials.Apart(quantifier, answers, true)
  rng = np.random.default_rng(0)
  found = trials.errors_of(apart, draws=4, size=30, rng=rng)
  assert evenness == [1.0, 0.3, 0.1, 1.0]
  np.testing.assert_allclose(found['count'], np.zeros(4), atol=1e-12)
  few = [
    len(np.unique(true[draw(true, 0.01, 30, np.random.default_rng(seed))]))
    for seed in range(20)
  ]
  assert np.mean(few) < 1.3  # of three


def test_an_image_at_the_limit_is_of_its_class():
  placed = counting.Placed(
    np.array([1, 1]), np.array([0.5, 0.5001]), np.ones((2, 2))
  )
  flat = posterior.Posterior(1.0, np.zeros(3))
  assert counting.answer(flat, 0.5, placed).label.tolist() == [1, 2]


def test_the_space_is_of_so_many_rows_of_a_class(monkeypatch):
  fit = fitted.fit(made_run(), None, acceptance=0.95)
  gallery = fit.labeller.gallery
  squared = [
    np.sum((row - gallery.embedding[gallery.label == label].mean(axis=0)) ** 2)
    for row, label in zip(gallery.embedding, gallery.label, strict=True)
  ]
  monkeypatch.setattr(counting, 'EACH', 6)
  space = counting.make_space(fit.labeller)
  assert space.width == pytest.approx(np.mean(squared) / 4, rel=1e-4)
  assert np.bincount(space.dense.label).tolist() == [6, 6, 6]
  np.testing.assert_array_equal(space.dense.id, gallery.id[space.rows])
  # One of these is known not to be trained on; of others, at most so many.
  monkeypatch.setattr(counting, 'MOST', 5)
  known = counting.gather(space, fit.val, space.dense.id[:1], None)
  assert known.fresh.sum() == len(fit.val.id) + 1
  assert np.sum(~known.fresh & (known.kind < 0)) == 5
  strange = known.kind >= 0
  own = known.kind[strange]
  far = known.placed.far[strange]
  np.testing.assert_array_equal(far[np.arange(len(far)), own], far.max(axis=1))


def test_methods_are_told_with_the_spread_of_their_errors():
  names = list(prevalence.METHODS)
  errors = {name: np.linspace(0.0, 1.0, 1001) / 2**i
            for i, name in enumerate(names)}  # fmt: skip
  plain, second, *_ = trials.describe_methods(errors, None, names[1])
  assert (plain['trusted'], second['trusted']) == (False, True)
  want = {'error': 0.25, 'low': 0.0125, 'high': 0.4875, 'ratio': 0.5}
  for field, value in want.items():
    assert second[f'val_{field}'] == pytest.approx(value)
  assert plain['val_ratio'] == 1.0 and 'test_error' not in plain


def test_the_test_meets_kinds_of_unknowns_that_were_not_fitted_to(monkeypatch):
  one = made_run()
  fit = fitted.fit(one, None, acceptance=0.95)
  space = counting.make_space(fit.labeller)
  gather, seen = counting.gather, {}

  def gathered(space, val, added, strange):
    seen['fitted'] = set(strange.label.tolist())
    return gather(space, val, added, strange)

  def errors(apart, *, draws, size, rng):
    seen['true'] = apart.true
    return apart.answers

  monkeypatch.setattr(counting, 'gather', gathered)
  monkeypatch.setattr(trials, 'errors_of', errors)
  unseen = one.splits['unseen']
  unseen = inputs.take(unseen, np.arange(30))  # 20 of a kind and 10
  apart = trials.hold_out(space, fit, np.array([]), unseen)
  answers = trials.test(apart, size=9)
  (met,) = {3, 4} - seen['fitted']
  rows = inputs.take(unseen, unseen.label == met)
  true = [*one.splits['test'].label, *[3] * len(rows.label)]
  assert len(seen['fitted']) == 1 and seen['true'].tolist() == true
  embedding = np.concatenate([one.splits['test'].embedding, rows.embedding])
  places = counting.place(space, embedding)
  inside = places.distance <= fit.labeller.threshold
  assert answers.label.tolist() == np.where(inside, places.nearest, 3).tolist()


def test_intervals_are_of_whole_images():
  shares = np.array([0.25, 0.72, 0.03])
  drawn = shares + np.array([[-0.11, 0.1, 0.01], [0.1, -0.1, 0.0]])
  every = dict.fromkeys(prevalence.METHODS, shares)
  one = counting.Estimate(20, every, dict.fromkeys(prevalence.METHODS, drawn))
  rows = np.arange(20)
  for factors in ([2.5], [2.5, 5.0], [np.nan]):
    units = [tallies.Unit('s', rows, factor) for factor in factors]
    found = tallies.tally(units, [one] * len(units))[0]
    images, unit = 20.0 * len(units), min(factors)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert found.images == images
    np.testing.assert_allclose(found.objects, images * shares)
    np.testing.assert_allclose(found.low, np.floor(images * low))
    np.testing.assert_allclose(found.high, np.ceil(images * high))
    water = 20.0 * sum(factors)
    np.testing.assert_allclose(
      found.per_m3_low, np.floor(water * low / unit) * unit
    )
    np.testing.assert_allclose(
      found.per_m3_high, np.ceil(water * high / unit) * unit
    )
  low, high = tallies.outward(np.array([3 - 1e-9]), np.array([3 + 1e-9]), 1.0)
  np.testing.assert_allclose([low, high], 3.0, atol=1e-8)
  assert low < 3.0 < high


def test_half_of_the_kinds_of_unknowns_is_never_fitted_to():
  one = made_run()
  fit = fitted.fit(one, None, acceptance=0.95)
  space = counting.make_space(fit.labeller)
  known = counting.gather(space, fit.val, np.array([]), one.splits['unseen'])
  assert set(known.kind[known.true == 3]) == {3, 4}
  assert known.weight[known.true == 3].sum() == pytest.approx(160 / 3)
  half = trials.halve(known, np.random.default_rng(0))
  assert len(set(known.kind[half]) - {-1}) == 1
  assert half[~known.fresh & (known.kind < 0)].all()
  for label in range(3):
    own = known.fresh & (known.true == label)
    assert half[own].sum() == -(-own.sum() // 2)
  alone = counting.gather(space, fit.val, np.array([]), None)
  assert (alone.true == 3).sum() == len(fit.val.label)
  shown = alone.placed.nearest[alone.true == 3]
  assert (shown != fit.val.label).all()


def test_the_threshold_is_that_of_predict():
  fit = fitted.fit(made_run(), None, acceptance=0.9)
  space = counting.make_space(fit.labeller)
  known = counting.gather(space, fit.val, np.array([]), None)
  assert counting.set_limit(known, 0.9) == fit.labeller.threshold
  assert counting.set_limit(known, 0.999) == np.inf


def test_groups_are_of_the_table_or_of_the_ids():
  items = [
    Object('o1', 'a.png', sample='t/1', acquisition='a', date='20240102'),
    Object('o2', 'b.png', sample='t2', acquisition='b', date='2024-01-03'),
  ]
  ids = [item.id for item in items]
  assert samples.name_groups(ids, 'sample', items).tolist() == ['t/1', 't2']
  assert samples.name_groups(ids, 'day', items).tolist() == [
    '2024-01-02', '2024-01-03',
  ]  # fmt: skip
  by = samples.name_groups(ids, 'acquisition', items)
  assert by.tolist() == ['t/1/a', 't2/b']
  assert samples.name_groups(ids, 'sample').tolist() == ['t%2F1', 't2']
  assert samples.name_groups(['x7.png', 'x8.png'], r'\d').tolist() == ['7', '8']
  assert samples.name_groups(['x7', 'y7'], r'([xy])7').tolist() == ['x', 'y']
  with pytest.raises(InputError, match='no table gives the date'):
    samples.name_groups(ids, 'day')
  with pytest.raises(InputError, match=r'1 of 2 images .* as b\.png; give'):
    samples.name_groups(['a/1.png', 'b.png'], 'sample')
  with pytest.raises(InputError, match='no regular expression'):
    samples.name_groups(['a'], '(')


@pytest.mark.parametrize('flag', ['images', 'export'])
def test_images_without_a_sample_are_told_of_before_any_is_embedded(
  tmp_path, monkeypatch, flag
):
  (tmp_path / 'a.png').touch()  # not read
  (tmp_path / 'tow1_b.png').touch()
  encoder = types.SimpleNamespace(config={'data': {'image_rank': 'lowest'}})
  monkeypatch.setattr(new_images, 'encoder_for', lambda *_: encoder)
  monkeypatch.setattr(
    new_images, 'open_source', lambda place, _: folder.objects(place)
  )
  embedded = blobs([2])
  monkeypatch.setattr(
    new_images,
    '_embed',
    lambda *_: new_images.NewImages('new', embedded, (), ()),
  )
  given = {'images': None, 'export': None, flag: str(tmp_path)}

  def gather(by):
    return new_images.gather_grouped(
      source(train=blobs([2])), **given, by=by, pixel_um=None
    )

  with pytest.raises(InputError, match=r"1 of 2 .* as a\.png; .* --by='"):
    gather(r'^(tow\d+)_')
  _, groups = gather('.')
  assert groups.tolist() == [id[0] for id in embedded.id]


def test_bad_input_is_told_in_one_line(tmp_path):
  images = str(new_file(tmp_path / 'new.npz'))

  def refuse(match, one=None, **fields):
    with pytest.raises(InputError, match=match):
      counts.analyse([one or made_run()], counts.Asked(images, **fields))

  refuse('--by=day', by='day')
  lost = made_run()
  del lost.splits['val']
  refuse('no labelled val images', lost, by='^(s.)')
  lone = source(train=blobs([9], seed=1), val=blobs([9], seed=2))
  refuse('has one class', lone, by='^(s.)')
  refuse('--draws=1', by='^(s.)', draws=1)
  refuse('--acceptance=2', by='^(s.)', acceptance=2.0)
  refuse('as s1/00.png', by='^(x)')
  narrow = source(
    train=blobs([9, 9], dim=4, seed=1), val=blobs([9, 9], dim=4, seed=2)
  )
  refuse(r'train, new images have \[4, 6\] dim', narrow, by='^(s.)')


def test_flags_reach_the_analysis(monkeypatch):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  called = []
  monkeypatch.setattr(counts, 'analyse', lambda _, asked: called.append(asked))
  with pytest.raises(InputError, match='--images is missing'):
    counts.asked([made_run()])
  with flagsaver.flagsaver(images='new', by='x', trust='adjusted count'):
    counts.asked([made_run()])
  assert called == [counts.Asked('new', by='x', trust='adjusted count')]


def test_of_many_classes_the_most_numerous_are_counted_apart(
  tmp_path, monkeypatch
):
  train, val = ([20] * 5, 1), ([12] * 5, 2)
  one = source(
    **{
      name: blobs(sizes, noise=0.2, seed=seed)
      for name, (sizes, seed) in {'train': train, 'val': val}.items()
    }
  )
  fit = fitted.fit(one, None, acceptance=0.95)
  sizes = [3, 20, 2, 4, 15]
  new = blobs(sizes, noise=0.2, seed=3)
  assert counting.choose_classes(fit.labeller, new.embedding) is None
  monkeypatch.setattr(counting, 'MOST_CLASSES', 4)
  monkeypatch.setattr(counting, 'FEW_CLASSES', 2)
  apart = counting.choose_classes(fit.labeller, new.embedding)
  assert apart.tolist() == [1, 4]
  space = counting.make_space(fit.labeller, apart)
  assert space.names == (NAMES[1], NAMES[4], '3 other classes')
  placed = counting.place(space, new.embedding)
  assert np.bincount(placed.nearest).tolist() == [20, 15, 9]
  wanted = counting.place(counting.make_space(fit.labeller), new.embedding).far
  np.testing.assert_allclose(placed.far[:, :2], wanted[:, [1, 4]])
  # Three classes of equally many rows: the mean of their densities.
  width = space.width
  mean = np.mean(np.exp(-wanted[:, [0, 2, 3]] / width), axis=1)
  np.testing.assert_allclose(placed.far[:, 2], -width * np.log(mean), atol=1e-9)

  # Images of no class are of one that is counted apart, without that one.
  monkeypatch.setattr(counting, 'MOST_KINDS', 1)
  known = counting.gather(space, fit.val, np.array([]), None)
  kinds = known.kind[known.true == 3]
  assert len(kinds) == 12 and set(kinds) < {1, 4}
  assert not (known.placed.nearest[known.true == 3] == kinds[0] // 4).any()
  counts_of = np.bincount(known.true[known.fresh])
  assert counts_of.tolist() == [12, 12, 36]

  ids = np.array([f's/{i}.png' for i in range(len(new.label))])
  rows = new._replace(id=ids, label=np.full(len(ids), -1))
  asked = counts.Asked(
    str(save(tmp_path / 'new.npz', rows)), by='^([^/]+)', draws=2
  )
  found = counts.analyse([one], asked)
  objects = {
    line['class']: line['objects'] for line in found.tables['counts.csv']
  }
  assert objects[NAMES[1]] == pytest.approx(20, abs=4)
  assert objects['3 other classes'] == pytest.approx(9, abs=4)
  assert sum(objects.values()) == pytest.approx(len(ids))
  assert any('2 of 5 classes are counted apart' in note for note in found.notes)
