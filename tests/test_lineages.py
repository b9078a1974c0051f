"""Naming by ranks, against loops over the classes."""

import gzip

import numpy as np
import pytest

from analysis import taxonomy
from analysis.files import taxa
from analysis.measures import classes, fitted, lineages
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError
from tests import packing
from tests.analysis_runs import NAMES as NAMES_OF_BLOBS
from tests.analysis_runs import blobs, source
from tests.analysis_runs import run as run_analysis
from tests.test_ecotaxa import tsv

LINEAGES = {
  'Calanoida': ('living', 'Crustacea', 'Copepoda', 'Calanoida'),
  'Copepoda': ('living', 'Crustacea', 'Copepoda'),
  'Cladocera': ('living', 'Crustacea', 'Cladocera'),
  'Diatoma': ('living', 'Diatoma'),
  'Diatoma dead': ('living', 'Diatoma'),
}
NAMES = (*LINEAGES, 'bubble')
KINDS = dict(
  zip(NAMES_OF_BLOBS, ('insect',) * 2 + ('vertebrate',) * 3, strict=True)
)
RANKS = ('kingdom', 'subphylum')


def tree():
  return lineages.grow(NAMES, LINEAGES, RANKS)


def draws(count=400, seed=0):
  """Probabilities [N, C], and classes [N] that they often tell."""
  rng = np.random.default_rng(seed)
  chance = rng.dirichlet(np.full(len(NAMES), 0.3), count)
  true = np.array([rng.choice(len(NAMES), p=row) for row in chance])
  return chance, true


def test_classes_have_places_of_their_own():
  found = tree()
  assert found.paths[:3] == tuple(LINEAGES.values())[:3]
  assert found.paths[3:] == (
    ('living', 'Diatoma', 'Diatoma'),
    ('living', 'Diatoma', 'Diatoma dead'),
    ('bubble',),
  )
  ranks = [level.rank for level in found.levels]
  assert ranks == ['kingdom', 'subphylum', 'level 3', 'level 4']
  assert lineages.grow(NAMES, {}) is None
  assert lineages.grow(NAMES, {'Copepoda': ('living', 'Copepoda')}) is None


def reference_node(path, level):
  return path[: level + 1]


def test_places_match_a_loop():
  grown, (chance, _) = tree(), draws()
  limits = (0.95, 0.8, 0.7, 0.6)
  likeliest = lineages.likeliest(grown, chance)
  found = lineages.place(grown, likeliest, limits)
  np.testing.assert_array_equal(likeliest.label, chance.argmax(axis=1))
  depths = set()
  for row, one in zip(chance, found, strict=True):
    wanted, share = (), 0.0
    for level, limit in enumerate(limits):
      sums = {}
      for path, p in zip(grown.paths, row, strict=True):
        node = reference_node(path, level)
        sums[node] = sums.get(node, 0.0) + p
      best = max(sums, key=sums.get)
      if sums[best] >= limit:
        wanted, share = best, sums[best]
    assert one.path == wanted
    assert one.confidence == pytest.approx(share)
    assert one.name == (wanted[-1] if wanted else '')
    assert one.rank == (grown.levels[len(wanted) - 1].rank if wanted else '')
    depths.add(len(wanted))
  assert depths == {0, 1, 2, 3, 4}


def test_a_threshold_is_the_lowest_that_is_right_often_enough():
  rng = np.random.default_rng(1)
  for sure in (0.6, 0.9):
    chance = np.round(rng.random(80), 1)  # with ties
    right = rng.random(80) < chance
    good = [
      limit
      for limit in np.unique(chance)
      if (np.sum(~right[chance >= limit]) + 1)
      <= (1 - sure) * (np.sum(chance >= limit) + 1)
    ]
    wanted = min(good, default=np.inf)
    assert lineages.threshold(chance, right, sure) == wanted
  ones = np.ones(18)
  assert lineages.threshold(ones, ones > 0, 0.95) == np.inf
  ones = np.ones(19)
  assert lineages.threshold(ones, ones > 0, 0.95) == 1.0
  assert lineages.threshold(np.empty(0), np.empty(0, bool), 0.5) == np.inf


def test_new_images_are_named_as_surely_as_asked():
  grown = tree()
  (old, label), (new, true) = draws(3000), draws(3000, seed=9)
  old, new = lineages.likeliest(grown, old), lineages.likeliest(grown, new)
  limits = lineages.calibrate(grown, old, label, 0.9)
  left = np.ones(len(label), bool)
  for level, node, chance, limit in reversed(
    [*zip(grown.levels, old.node.T, old.chance.T, limits, strict=True)]
  ):
    right = node[left] == level.member[label[left]]
    assert limit == lineages.threshold(chance[left], right, 0.9)
    left &= chance < limit  # of those that no deeper level names
  lines, measures, far = lineages.measure(grown, new, true, limits)
  assert [line['nodes'] for line in lines] == [2, 3, 5, 6]
  for line in lines:
    assert line['named'] == 0 or line['named_accuracy'] > 0.88
  accuracy = [line['accuracy'] for line in lines]
  assert accuracy == sorted(accuracy, reverse=True)
  assert measures['named_accuracy'] > 0.88
  assert len(far) == measures['mistakes'] > 0
  shares = [line['named'] for line in lines]
  assert measures['named'] == pytest.approx(sum(shares)) and min(shares) > 0


def test_a_level_of_one_node_names_nothing():
  grown = lineages.grow(('a', 'b'), {'a': ('x', 'a'), 'b': ('x', 'b')})
  found = lineages.likeliest(grown, np.full((50, 2), 0.5))
  limits = lineages.calibrate(grown, found, np.arange(50) % 2, 0.9)
  assert limits == (np.inf, np.inf)
  placed = lineages.place(grown, found, limits)
  assert placed == [lineages.NOWHERE] * 50


def test_mistakes_are_counted_in_edges():
  grown = tree()
  every = np.indices((len(NAMES), len(NAMES))).reshape(2, -1)
  far = lineages.edges(grown, *every).reshape(len(NAMES), -1)
  place = {name: at for at, name in enumerate(NAMES)}

  def edges(a, b):
    return far[place[a], place[b]]

  assert edges('Calanoida', 'Copepoda') == 1
  assert edges('Copepoda', 'Cladocera') == 2
  assert edges('Calanoida', 'Diatoma') == 5
  assert edges('Diatoma', 'Diatoma dead') == 2
  assert edges('bubble', 'Copepoda') == 4
  assert (far == far.T).all() and (np.diag(far) == 0).all()
  true = np.array([place['Calanoida'], place['Copepoda'], place['Diatoma']])
  chance = np.eye(len(NAMES))[[place['Copepoda'], place['Copepoda'], 0]]
  found = lineages.likeliest(grown, chance)
  _, measures, _ = lineages.measure(grown, found, true, (1.0,) * 4)
  assert measures['mistakes'] == 2
  assert measures['taxonomic_distance'] == (1 + 5) / 2
  # Copepoda is a right, if shallow, name of a calanoid.
  assert measures['named_accuracy'] == pytest.approx(2 / 3)


def test_a_file_of_taxa(tmp_path):
  path = tmp_path / 'taxa.csv'
  path.write_text(
    'objid,Taxon,Lineage,category_id,AphiaID,rank\n'
    '1,Calanoida,/#/living/Copepoda/Calanoida,45,1100,order\n'
    '2,Calanoida,/#/living/Copepoda/Calanoida,45,1100,order\n'
    '3,other<living,living>other,,,\n'
    '4,,,,,\n'
  )
  found = taxa.read(path)
  assert found.of == {
    'Calanoida': taxa.Taxon(
      ('living', 'Copepoda', 'Calanoida'),
      45,
      '',
      'urn:lsid:marinespecies.org:taxname:1100',
      'order',
    ),
    'other<living': taxa.Taxon(('living', 'other')),
  }
  assert found.categories() == {'Calanoida': 45} and found.ranks == ()
  zipped = tmp_path / 'taxa.csv.gz'
  zipped.write_bytes(gzip.compress(path.read_bytes()))
  assert taxa.read(zipped) == found


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'cp1252', 'utf-16'])
@pytest.mark.parametrize('mark', [',', ';', '\t'])
def test_a_file_of_taxa_as_spreadsheets_write_it(tmp_path, encoding, mark):
  lines = (
    'sep=;',
    '# of, 2024;',
    '',
    ';;',
    'taxon;lineage;category_id;aphia_id',
    'ée;a>ée;NA;nan',
  )
  path = tmp_path / 'taxa.csv'
  path.write_bytes('\r\n'.join(lines).replace(';', mark).encode(encoding))
  assert taxa.read(path).of == {'ée': taxa.Taxon(('a', 'ée'))}


def test_a_column_without_a_name_is_no_column_that_is_missing(tmp_path):
  path = tmp_path / 'taxa.csv'
  path.write_text(',taxon,lineage\n0,a,x>a\n7,b,x>b\n')  # pandas' index
  assert taxa.read(path).of == {
    name: taxa.Taxon(('x', name)) for name in ('a', 'b')
  }


@pytest.mark.parametrize('none', ['NA', 'NaN', '<NA>', 'NULL', '#N/A', 'none'])
def test_words_for_no_value_are_none_in_every_column(tmp_path, none):
  path = tmp_path / 'taxa.csv'
  header = 'taxon|phylum|genus|category_id|scientific_name|aphia_id|rank\n'
  rows = '|'.join(('a', 'P', *[none] * 5)), '|'.join((none, 'P', *[''] * 5))
  path.write_text(header + '\n'.join(rows))
  assert taxa.read(path).of == {'a': taxa.Taxon(('P',))}


def test_columns_of_ranks_are_a_lineage(tmp_path):
  path = tmp_path / 'taxa.tsv'
  path.write_text(
    '\ufefftaxon\tkingdom\tphylum\torder\tgenus\n'
    'Oithona\tAnimalia\tArthropoda\t\tOithona\n'
    'worm\tAnimalia\n',
    encoding='utf-8',
  )
  found = taxa.read(path)
  assert found.ranks == ('kingdom', 'phylum', 'order', 'genus')
  assert found.of['Oithona'].lineage == (
    *('Animalia', 'Arthropoda', 'Arthropoda, no order', 'Oithona'),
  )
  assert found.of['worm'].lineage == ('Animalia',)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (b'name of it,b\n1,2\n', r'no column taxon \(it has name of it, b\)'),
    (b'name\x0cof it,"b\n"\n1,2\n', r'it has name\\x0cof it, b\)'),
    (b'', 'no column taxon .it has no rows'),
    (b'taxon,lineage\na,x\na,y\n', 'line 3: a differs from an earlier row'),
    (b'taxon,lineage\n"a\rb",x\n"a\rb",y\n', r'line 5: a\\nb differs'),
    (b'taxon,category_id\na,4x\n', "line 2: category_id '4x': no number"),
    (b'taxon,category_id\na,' + b'9' * 5000, 'line 2: category_id .*no number'),
    (b'taxon,aphia_id\na,x\n', "line 2: 'x' is neither an AphiaID"),
    (b'taxon,lineage\n1,a,x>a\n', 'line 2: 3 cells for 2 columns: quote'),
    (b'taxon,lineage\n\na,x\n\nb,x,y,b\n', 'line 5: 4 cells for 2 columns'),
    (b'taxon,taxon,lineage\na,b,x\n', "column 'taxon' is there twice"),
    (b'taxon\n"a\n', 'no table of taxa'),
    (b'\x1f\x8btaxon', 'no table of taxa'),
    (b'PK\3\4', 'not a readable Excel workbook'),
  ],
)
def test_files_that_are_no_taxa_are_one_line(tmp_path, text, message):
  path = tmp_path / 'taxa.csv'
  path.write_bytes(text)
  with pytest.raises(InputError, match=message) as error:
    taxa.read(path)
  assert len(str(error.value).splitlines()) == 1
  with pytest.raises(InputError, match='No such file'):
    taxa.read(tmp_path / 'none.csv')


def test_taxa_of_objects_and_of_a_file_complete_each_other():
  def item(taxon, lineage='', number=''):
    return Object('o', 'i', taxon=taxon, lineage=lineage, category_id=number)

  items = [
    item('a', 'x>a', '1'),
    item('a', '', '1.0'),
    item('a', 'x>a', ''),
    item('b', 'x>b', '2'),
    item('b', 'y>b', '2'),
    item(''),
  ]
  found, notes = taxa.from_objects(items)
  assert found.of == {
    'a': taxa.Taxon(('x', 'a'), 1),
    'b': taxa.Taxon((), 2),
  }
  assert notes == ['b has several lineages, none of which is used: x>b, y>b']
  file = taxa.Taxa(
    {'b': taxa.Taxon(('z', 'b')), 'c': taxa.Taxon(name='C')}, ('kingdom',)
  )
  merged = taxa.merge(file, found)
  assert merged.of == {
    'a': taxa.Taxon(('x', 'a'), 1),
    'b': taxa.Taxon(('z', 'b'), 2),
    'c': taxa.Taxon(name='C'),
  }
  assert merged.ranks == ('kingdom',)
  assert taxa.merge(taxa.NONE, found) == found


def test_a_run_is_measured_by_the_lineages_of_its_own_export(
  tmp_path, monkeypatch
):
  files = {'images/a.png': b''}
  rows = [
    (f'images/{n}.png', f'o{n}', 'validated', name, f'living>{kind}>{name}')
    for n, (name, kind) in enumerate(KINDS.items())
  ]
  files['ecotaxa_1.tsv'] = tsv(rows, (
    'img_file_name', 'object_id', 'object_annotation_status',
    'object_annotation_category', 'object_annotation_hierarchy',
  ))  # fmt: skip
  folder = packing.tree(tmp_path / 'export', files)
  splits = {
    split: blobs([40] * 5, noise=0.5, seed=seed)
    for seed, split in enumerate(('train', 'val', 'test'))
  }
  run = source('$run^$', workdir=tmp_path / 'run', **splits)
  run.config['data'] = {'source': 'ecotaxa', 'path': str(folder)}
  bare = source('bare', **splits)
  found = run_analysis(taxonomy, [run, bare], tmp_path / 'out', sure=0.8)
  assert found.notes == ['bare: no lineages (--taxa): skipped']
  lines = found.tables['taxonomy.csv']
  assert [line['rank'] for line in lines] == ['level 1', 'level 2', 'level 3']
  assert [line['nodes'] for line in lines] == [1, 2, 5]
  train, test = splits['train'], splits['test']
  means = [train.embedding[train.label == c].mean(0) for c in range(5)]
  label = np.array(
    [np.argmin([((x - m) ** 2).sum() for m in means]) for x in test.embedding]
  )
  assert lines[2]['accuracy'] == pytest.approx(np.mean(label == test.label))
  kinds = [KINDS[NAMES_OF_BLOBS[c]] for c in label]
  true = [KINDS[NAMES_OF_BLOBS[c]] for c in test.label]
  wrong = [
    2 if kind == other else 4
    for kind, other, a, b in zip(kinds, true, label, test.label, strict=True)
    if a != b
  ]
  (measures,) = found.values['taxonomy.json']
  assert measures['taxonomic_distance'] == pytest.approx(np.mean(wrong))
  assert (tmp_path / 'out/taxonomy.png').stat().st_size > 10_000
  monkeypatch.setattr(classes, 'ENTRIES', 6 * 9)  # nine images of 6 dimensions
  blocks = taxonomy.analyse([run], sure=0.8)
  assert blocks.tables['taxonomy.csv'] == [
    pytest.approx(line, nan_ok=True) for line in lines
  ]
  # An export that is predicted is not read again for the run that it trained.
  for place, read in ((f'{folder}/../export', True), (tmp_path / 'x', False)):
    known, _ = taxa.of_run(run, str(place))
    assert (known == taxa.NONE) == read
  run.config['data']['path'] = str(tmp_path / 'gone')
  told = ' '.join(taxonomy.analyse([run]).notes)
  assert '$run^$: no taxa of its export' in told and 'no lineages' in told


def test_what_cannot_be_backed_off_is_said():
  names = ('a', 'b', 'x')
  known = taxa.Taxa({'a': taxa.Taxon(('r', 'a')), 'b': taxa.Taxon(('r', 'b'))})
  rows = blobs([9, 9, 9], names=names)
  fit = fitted.fit(source(train=rows, val=rows), None, acceptance=0.95)
  ranks = lineages.fit(fit, known, 0.8)
  assert ranks.remarks == ['1 of 3 classes without a lineage: x.']
  assert ranks.tree is not None and not ranks.lines
  ranks = lineages.fit(fit._replace(val=None), known, 0.8)
  assert ranks.remarks == ['No val images: names are not backed off.']
  assert lineages.fit(fit, taxa.NONE, 0.8) == lineages.Ranks()
