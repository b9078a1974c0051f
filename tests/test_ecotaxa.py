"""EcoTaxa exports as they come: zipped or not, with and without types."""

import json
import zipfile

import numpy as np
import packing
import pytest
from test_pipeline import loader

from plankton_jax.data import select
from plankton_jax.data.ecotaxa import read, table
from plankton_jax.errors import InputError


@pytest.fixture
def load(tmp_path):
  return loader(tmp_path)


COLUMNS = (
  'img_file_name', 'img_rank', 'object_id', 'object_annotation_status',
  'object_annotation_category', 'object_annotation_hierarchy', 'sample_id',
  'acq_id',
)  # fmt: skip
TAXA = ('Calanoida', 'other<living', 'Ж')


def tsv(rows, columns=COLUMNS, types=False, encoding='utf-8-sig'):
  lines = [columns, ['[t]'] * len(columns)] if types else [columns]
  lines = [*lines, *rows]
  text = '\n'.join('\t'.join(f'"{v}"' for v in line) for line in lines)
  return (text + '\n').encode(encoding)


def row(number, **changes):
  """Object `number`: 3 taxa, 4 samples of 2 acquisitions, an image each."""
  taxon = TAXA[number % 3]
  fields = {
    'img_file_name': f'images/{number}.png',
    'img_rank': 0,
    'object_id': f'o{number:02}',
    'object_annotation_status': 'validated',
    'object_annotation_category': taxon,
    'object_annotation_hierarchy': f'living>{taxon}',
    'sample_id': f'S{number % 4}',
    'acq_id': f'A{number % 8}',
  }
  return list((fields | changes).values())


def whole(count=48, **settings):
  """An export as EcoTaxa's general one: one table, images below it."""
  files = {f'images/{n}.png': packing.picture(n) for n in range(count)}
  rows = [row(n) for n in range(count)]
  return {'ecotaxa_export_7.tsv': tsv(rows, **settings)} | files


def pack(tmp_path, files, kind):
  if kind == 'zip':
    return packing.pack_zip(tmp_path / 'export.zip', files)
  return packing.tree(tmp_path / 'export', files)


@pytest.mark.parametrize('kind', ['zip', 'folder'])
@pytest.mark.parametrize('types', [False, True])
def test_what_a_row_says(tmp_path, kind, types):
  path = pack(tmp_path, whole(9, types=types), kind)
  export = read.export(str(path))
  assert len(export.objects) == 9 and not export.skipped
  by_id = {item.object_id: item for item in export.objects}
  item = by_id['o05']
  assert item[:7] == (
    'o05', 'images/5.png', 'validated', 'Ж', 'living>Ж', 'S1', 'A5'
  )  # fmt: skip
  assert set(item[7:]) == {''}
  assert item.id == 'S1/A5/o05' and read.object_id(item.id) == 'o05'
  assert export.files.read(item.image) == packing.picture(5)


def test_backup_exports_have_a_table_and_images_a_sample(tmp_path):
  files = {}
  for sample in ('s/1', 's%2'):
    folder = sample.replace('/', '_')
    rows = [
      row(
        n, img_file_name=f'{n}.png', sample_id=sample, object_id=f'{sample}{n}'
      )
      for n in range(3)
    ]
    files[f'{folder}/ecotaxa_{folder}.tsv'] = tsv(rows, types=True)
    files |= {f'{folder}/{n}.png': packing.picture(n) for n in range(3)}
  export = read.export(str(packing.pack_zip(tmp_path / 'e.zip', files)))
  assert [item.id for item in export.objects] == sorted(
    [f's%2F1/A{n}/s%2F1{n}' for n in range(3)]
    + [f's%252/A{n}/s%252{n}' for n in range(3)]
  )
  assert {read.object_id(item.id) for item in export.objects} == {
    f'{sample}{n}' for sample in ('s/1', 's%2') for n in range(3)
  }
  assert export.objects[0].image == 's%2/0.png'


def test_the_lowest_rank_stands_for_its_object(tmp_path):
  rows = [
    row(0, img_file_name='b.png', img_rank=100),
    row(0, img_file_name='a.png', img_rank=1),
    row(0, img_file_name='c.png', img_rank=2),
  ]
  export = read.export(
    str(pack(tmp_path, {'ecotaxa.tsv': tsv(rows)}, 'folder'))
  )
  assert [item.image for item in export.objects] == ['a.png']
  assert export.further == 2


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'latin-1'])
def test_encodings(tmp_path, encoding):
  rows = [row(0, object_annotation_category='Pléiade')]
  files = {'ecotaxa.txt': tsv(rows, encoding=encoding)}
  export = read.export(str(pack(tmp_path, files, 'zip')))
  assert export.objects[0].taxon == 'Pléiade'


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_rows_that_cannot_be_used_are_named(tmp_path, kind, load):
  (tmp_path / 'secret.png').write_bytes(packing.picture(77))
  files = whole()
  files['images/3.png'] = packing.bomb()
  files['images/4.png'] = b''
  del files['images/5.png']
  more = [
    row(50, img_file_name='../../secret.png'),
    row(51, img_file_name=str(tmp_path / 'secret.png')),
    row(52, object_id=''),
    row(53, img_file_name=' '),
    row(54, object_annotation_category=''),
    row(55, object_annotation_status='predicted'),
    row(56, object_annotation_status='', object_annotation_category=''),
  ]
  files['more/ecotaxa_b.tsv'] = tsv(more, types=True)
  path = pack(tmp_path, files, kind)
  data = load(
    source='ecotaxa',
    path=str(path),
    unseen_classes=('Ж',),
    fractions=(0.5, 0.25, 0.25),
  )
  assert len(data.images) == 45
  listed = (tmp_path / 'work/skipped.txt').read_text().splitlines()
  gone = 'no such file in the export'
  assert dict(line.split('\t') for line in listed) == {
    'more/ecotaxa_b.tsv:3': f'../../secret.png: {gone}',
    'more/ecotaxa_b.tsv:4': f'{tmp_path}/secret.png: {gone}',
    'more/ecotaxa_b.tsv:5': 'no object_id',
    'more/ecotaxa_b.tsv:6': 'no img_file_name',
    'more/ecotaxa_b.tsv:7': 'validated without a category',
    'S3/A3/o03': 'more than 67 million pixels',
    'S0/A4/o04': 'empty file',
    'S1/A5/o05': gone,
  }


def test_zip_folder_and_state_give_one_split(tmp_path, load):
  fields = {
    'source': 'ecotaxa',
    'unseen_classes': ('Ж',),
    'labelled_status': ('validated', 'predicted'),
  }
  files = whole()
  more = [row(n, object_annotation_status='predicted') for n in range(48, 60)]
  files['ecotaxa_more.tsv'] = tsv(more)
  files |= {f'images/{n}.png': packing.picture(n) for n in range(48, 60)}
  splits = []
  for kind in ('zip', 'folder'):
    path = str(pack(tmp_path, files, kind))
    data = load(kind, path=path, **fields)
    assert data.class_names == ('Calanoida', 'other<living', 'Ж')
    splits.append(json.loads((tmp_path / kind / 'split.json').read_text()))
    less = load(
      f'{kind}2', path=path, **fields | {'labelled_status': ('validated',)}
    )
    assert len(data.images) == 60 and len(less.images) == 48
    assert data.fingerprint != less.fingerprint
  assert splits[0]['splits'] == splits[1]['splits']
  before = data.fingerprint
  (tmp_path / 'export/images/0.png').write_bytes(packing.picture(99))
  assert load('new', path=path, **fields).fingerprint != before


@pytest.mark.parametrize(
  ('group_by', 'part'), [('sample', slice(1)), ('acquisition', slice(2))]
)
def test_groups_stay_on_one_side(tmp_path, load, group_by, part):
  path = str(pack(tmp_path, whole(), 'zip'))
  fields = {'source': 'ecotaxa', 'path': path, 'unseen_classes': ('Ж',)}
  sides = {}
  data = load(group_by=group_by, **fields)
  for name in ('train', 'val', 'test'):
    for id in data.ids[data.splits[name]]:
      sides.setdefault(tuple(id.split('/')[part]), set()).add(name)
  assert len(sides) == {'sample': 4, 'acquisition': 8}[group_by]
  assert all(len(names) == 1 for names in sides.values())
  free = load('free', group_by='', **fields)
  other = {
    tuple(id.split('/')[part]): name
    for name in ('train', 'val', 'test')
    for id in free.ids[free.splits[name]]
  }
  assert len(other) == len(sides) and sides != {
    k: {v} for k, v in other.items()
  }


def test_objects_without_a_sample_stay_for_themselves():
  import re

  ids = {'': '//o', 'S': 'S//o'}
  for group_by, pattern in read.GROUPS.items():
    for sample, id in ids.items():
      match = re.search(pattern, id)
      assert (match is not None) == (group_by == 'sample' and bool(sample))
  assert re.search(read.GROUPS['acquisition'], 'S/A/o')[1] == 'S/A'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'path': ''}, 'data.path is empty: name the EcoTaxa export'),
    ({'path': '/nowhere'}, '/nowhere is not there'),
    ({'labelled_status': ()}, 'data.labelled_status must be a tuple'),
    ({'labelled_status': 'validated'}, 'data.labelled_status must be a tuple'),
    ({'labelled_status': ('valid',)}, "'valid' is none of validated, predic"),
    (
      {'labelled_status': ('dubious',)},
      r'no object is dubious \(9 validated\)',
    ),
    ({'group_by': 'cruise'}, "data.group_by='cruise' must be '' or 'sample'"),
    ({'group_by': 'sample', 'group_regex': 'x'}, 'exclude each other'),
    ({'group_by': 'sample', 'source': 'folder'}, "needs data.source='ecotaxa'"),
    ({'classes': ('Calanoid', 'Ж')}, "data.classes: no class 'Calanoid'; did"),
    ({'classes': 'Calanoida'}, r"write \('Calanoida',\)"),
    ({'classes': ('Calanoida',)}, r'only one class \(Calanoida\)'),
  ],
)
def test_bad_fields_are_one_line(tmp_path, load, changes, message):
  path = str(pack(tmp_path, whole(9), 'zip'))
  fields = {'source': 'ecotaxa', 'path': path, 'unseen_classes': 0}
  with pytest.raises(InputError, match=message) as caught:
    load(**fields | changes)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'cache').exists()  # Found before any work.


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    ({'a.tsv': b'a\tb\n1\t2\n'}, r'holds no table ecotaxa\*.tsv or'),
    (
      {'ecotaxa.tsv': tsv([row(0)[1:]], COLUMNS[1:])},
      "ecotaxa.tsv: column 'img_file_name' is missing .it has img_rank, object",
    ),
    (
      {'ecotaxa.tsv': tsv([row(0)[:3]], COLUMNS[:3])},
      r'no object is validated \(1 unclassified\)',
    ),
    (
      {'ecotaxa.tsv': tsv([[*row(0), 'x']])},
      'ecotaxa.tsv:2: 9 values for 8 columns',
    ),
    ({'ecotaxa.tsv': b'a,b\n1,2\n'}, "'img_file_name' is missing .it has a, b"),
    ({'ecotaxa.tsv': b''}, 'no tab-separated header'),
    (
      {'ecotaxa.tsv': b'object_id\tObject_ID \n1\t2\n'},
      "'object_id' is there twice",
    ),
    ({'ecotaxa.tsv': tsv([])}, r'no object is validated \(none\)'),
  ],
)
@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_useless_exports_are_one_line(tmp_path, load, kind, files, message):
  path = str(pack(tmp_path, files, kind))
  with pytest.raises(InputError, match=message) as caught:
    load(source='ecotaxa', path=path)
  assert '\n' not in str(caught.value) and path in str(caught.value)


def test_an_export_without_samples_cannot_be_grouped(tmp_path, load):
  files = {'ecotaxa.tsv': tsv([row(n)[:6] for n in range(9)], COLUMNS[:6])}
  path = str(pack(tmp_path, files, 'zip'))
  with pytest.raises(InputError, match='no object names its sample: export it'):
    load(source='ecotaxa', path=path, group_by='sample')


def test_truncated_zip_and_other_files(tmp_path, load):
  path = pack(tmp_path, whole(9), 'zip')
  path.write_bytes(path.read_bytes()[:3000])
  with pytest.raises(
    InputError, match=r'export.zip is not a zip .*get it again'
  ):
    load(source='ecotaxa', path=str(path))
  (tmp_path / 'a.h5').write_text('x')
  with pytest.raises(InputError, match='neither a folder, a zip or t'):
    load(source='ecotaxa', path=str(tmp_path / 'a.h5'))


def test_a_table_is_read_as_it_stands():
  data = b'Object_ID \tobject_x\n[t]\t[f]\n"a ""b"""\t1\n\nc\n'
  got = table.parse(data, 'here')
  assert got.columns == ('object_id', 'object_x') and got.types == (
    '[t]',
    '[f]',
  )
  assert got.rows == (('a "b"', '1'), ('c', '')) and got.lines == (3, 5)
  assert list(got.column('object_y')) == ['', '']
  # A first object of which nothing is known is no row of types.
  assert table.parse(b'a\tb\n\t\nx\ty\n', '').rows == (('x', 'y'),)


def test_the_command_lists_an_export(tmp_path, python):
  path = pack(tmp_path, whole(9), 'zip')
  done = python('-m', 'plankton_jax.data.ecotaxa', path)
  assert done.returncode == 0, done.stderr
  listed = done.stdout.splitlines()
  assert '9 validated, 4 samples, 8 acquisitions' in listed[0]
  assert listed[2].split() == [
    'Calanoida',
    '3',
    '0',
    '0',
    '0',
    'living>Calanoida',
  ]


def read_back(tmp_path, files, kind='zip'):
  return read.export(str(pack(tmp_path, files, kind)))


def accounted(export, rows):
  """Asserts that every row of the tables became something."""
  kept = len(export.objects) + export.further + export.repeated
  assert kept + len(export.skipped) == rows


UNLABELLED = ('img_file_name', 'img_rank', 'object_id', 'acq_id')


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_tables_without_annotation_hold_unclassified_objects(tmp_path, kind):
  files = {
    'new/ecotaxa_new.tsv': tsv(
      [[f'{n}.png', 0, f'n{n}', 'A9'] for n in range(5)], UNLABELLED
    ),
    'damaged/ecotaxa_x.tsv': b'a,b\n1,2\n',
    'short/ecotaxa_y.tsv': tsv([[0, 'n']], UNLABELLED[1:3]),
    **whole(9),
  }
  export = read_back(tmp_path, files, kind)
  states = [item.status for item in export.objects]
  assert states.count('validated') == 9 and states.count('unclassified') == 5
  reasons = dict(export.skipped)
  missing = "column 'img_file_name' is missing"
  assert missing in reasons['damaged/ecotaxa_x.tsv']
  assert missing in reasons['short/ecotaxa_y.tsv']
  accounted(export, 14 + 2)


def test_left_aside_objects_are_accounted_for(tmp_path, load):
  files = whole()
  more = [row(n, object_annotation_status='dubious') for n in range(48, 53)]
  more += [row(0, img_file_name='images/1.png', img_rank=1), row(2)]
  files['ecotaxa_more.tsv'] = tsv(more)
  path = str(pack(tmp_path, files, 'zip'))
  load(source='ecotaxa', path=path, unseen_classes=('Ж',))
  found = json.loads((tmp_path / 'work/accounting.json').read_text())
  assert found['left_out'] == {
    'dubious (data.labelled_status)': 5,
    'further image of an object': 1,
    'row that repeats another one': 1,
  }
  assert found['read'] == 48 + 7 == 7 + sum(found['kept'].values())


@pytest.mark.parametrize(
  'cell', ['"200 um net', '"', '"20", "30 um', 'net of "200', 'a"b', '"a"b"']
)
@pytest.mark.parametrize('at', [0, 3, 48, 49])
@pytest.mark.parametrize('closing', [None, 'net"', '5" net'])
def test_a_quote_that_never_closes_swallows_no_row(tmp_path, cell, at, closing):
  lines = [[*COLUMNS, 'acq_net']]
  lines += [[*map(str, row(n)), 'plain'] for n in range(50)]
  lines[1 + at][-1] = cell
  if closing and at < 20:
    lines[30][-1] = closing
  text = '\n'.join('\t'.join(line) for line in lines)
  export = read_back(tmp_path, {'ecotaxa.tsv': text.encode()})
  ids = sorted(item.object_id for item in export.objects)
  assert ids == [f'o{n:02}' for n in range(50)]
  assert len({item.id for item in export.objects}) == 50
  accounted(export, 50)
  if cell == '"200 um net':
    assert export.notes[0] == (
      f'ecotaxa.tsv:{at + 2}: a quote is never closed: read as a character'
    )


def test_quoted_cells_may_hold_breaks_tabs_and_quotes():
  data = b'a\tb\tc\n1\t"x\ny ""z"" \t w"\t3\n4\t"5\n\n6"\t7\n'
  got = table.parse(data, '')
  assert got.rows == (('1', 'x\ny "z" \t w', '3'), ('4', '5\n\n6', '7'))
  assert got.lines == (3, 6) and not got.notes and not got.bad


def test_ids_that_a_spreadsheet_rounded_are_an_error(tmp_path):
  rows = [row(n) for n in range(3)]
  rows += [
    row(n, object_id='2.02108E+13', sample_id='S', acq_id='A')
    for n in range(3, 9)
  ]
  with pytest.raises(
    InputError, match=r'lines 5, 6, 7, 8, 9, 10 of .*2108E\+13'
  ):
    twice = row(0, img_file_name='images/9.png')  # of an id that is whole
    read_back(tmp_path, {'ecotaxa.tsv': tsv([*rows, twice])})
  export = read_back(tmp_path, {'ecotaxa.tsv': tsv(rows[:4])})
  assert len(export.objects) == 4
  assert '1 ids such as 2.02108E+13 (ecotaxa.tsv:5)' in export.notes[0]


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_projects_with_equal_ids_are_kept_apart(tmp_path, kind):
  files = {}
  for number, project in enumerate(('one', 'two', 'three')):
    names = [f'{n}.png' for n in range(6)]
    key = 'o{:02}' if project != 'three' else 'p{:02}'
    rows = [
      row(n, img_file_name=name, object_id=key.format(n))
      for n, name in enumerate(names)
    ]
    files[f'{project}/ecotaxa.tsv'] = tsv(rows)
    files |= {
      f'{project}/{name}': packing.picture(10 * number + n)
      for n, name in enumerate(names)
    }
  export = read_back(tmp_path, files, kind)
  assert len({item.id for item in export.objects}) == 18
  assert sorted(item.image for item in export.objects) == sorted(
    name for name in files if name.endswith('png')
  )
  assert {read.object_id(item.id) for item in export.objects} == {
    f'{letter}{n:02}' for letter in 'op' for n in range(6)
  }
  samples = {item.sample.rpartition('/')[0] for item in export.objects}
  assert samples == {'one/ecotaxa', 'two/ecotaxa', ''}
  assert 'kept apart by their names: one/ecotaxa.tsv, two' in export.notes[0]
  accounted(export, 18)


def test_zips_in_zips_and_in_folders(tmp_path):
  inner = packing.pack_zip(tmp_path / 'inner.zip', whole(4)).read_bytes()
  middle = packing.pack_zip(tmp_path / 'middle.zip', {'s1.zip': inner})
  files = {
    'a/s.zip': middle.read_bytes(),
    'broken.zip': inner[:300],
    '__MACOSX/._s.zip': b'x',
  }
  for kind in ('zip', 'folder'):
    export = read_back(tmp_path, files, kind)
    assert len(export.objects) == 4
    item = export.objects[0]
    assert item.image == 'a/s.zip/s1.zip/images/0.png'
    assert export.files.read(item.image) == packing.picture(0)
    assert export.files.digest(item.image)
    skipped = {name for name, _ in export.skipped}
    assert 'broken.zip' in skipped


def test_archives_too_deep_are_named(tmp_path):
  data = packing.pack_zip(tmp_path / 'x.zip', whole(2)).read_bytes()
  for _ in range(3):
    data = packing.pack_zip(tmp_path / 'x.zip', {'x.zip': data}).read_bytes()
  files = {'deep.zip': data, **whole(3)}
  export = read_back(tmp_path, files)
  assert len(export.objects) == 3
  assert export.skipped == (
    ('deep.zip/x.zip/x.zip', 'a zip archive in 3 others'),
  )


def test_a_method_that_python_cannot_read_says_how_to_repack(tmp_path):
  path = pack(tmp_path, whole(3), 'zip')
  data = bytearray(path.read_bytes())
  # Deflate64 in the local header and in the directory of the first image.
  for mark, offset in ((b'PK\3\4', 8), (b'PK\1\2', 10)):
    start = data.index(mark, data.index(mark) + 1)
    data[start + offset : start + offset + 2] = (9).to_bytes(2, 'little')
  path.write_bytes(data)
  export = read.export(str(path))
  with pytest.raises(ValueError, match=r'Python cannot read: unpack .* Defl'):
    export.files.read('images/0.png')
  assert export.files.read('images/1.png') == packing.picture(1)


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_names_as_windows_and_macs_write_them(tmp_path, kind):
  files = {
    'ecotaxa.tsv': tsv(
      [
        row(0, img_file_name='images\\sub\\0.png'),
        row(1, img_file_name='Images/1.PNG'),
        row(2, img_file_name='images/e\u0301.png'),
        row(3, img_file_name='images/twice.PNG'),
        row(4, img_file_name='C:\\images\\4.png'),
        row(5, img_file_name='..\\..\\5.png'),
      ]
    ),
    'images/sub/0.png': packing.picture(0),
    'images/1.png': packing.picture(1),
    'images/\u00e9.png': packing.picture(2),
    'images/twice.png': packing.picture(3),
    'images/Twice.png': packing.picture(4),
  }
  export = read_back(tmp_path, files, kind)
  by_id = {item.object_id: item.image for item in export.objects}
  for number in range(3):
    data = export.files.read(by_id[f'o{number:02}'])
    assert data == packing.picture(number)
  with pytest.raises(ValueError, match=r'several alike: images/Twice.png, im'):
    export.files.read(by_id['o03'])
  assert [reason for _, reason in export.skipped] == [
    'C:\\images\\4.png: no such file in the export',
    '..\\..\\5.png: no such file in the export',
  ]
  accounted(export, 6)


@pytest.mark.parametrize('encoding', ['utf-16', 'cp1252', 'utf-8-sig'])
@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
def test_encodings_and_line_endings_of_spreadsheets(encoding, ending):
  text = tsv([row(n, sample_id='µ–é') for n in range(3)], encoding='utf-8')
  text = text.decode().replace('Ж', 'z').replace('\n', ending)
  got = table.parse(text.encode(encoding), '')
  assert len(got.rows) == 3 and set(got.column('sample_id')) == {'µ–é'}


def test_columns_that_are_not_read_refuse_nothing(tmp_path):
  columns = (*COLUMNS, 'object_x', 'object_x', '')
  rows = [[*row(n), 1, 2, ''] for n in range(3)]
  assert len(read_back(tmp_path, {'ecotaxa.tsv': tsv(rows, columns)}).objects)
  twice = (*COLUMNS, 'object_id')
  rows = [[*row(n), 'x'] for n in range(3)]
  with pytest.raises(InputError, match="'object_id' is there twice"):
    read_back(tmp_path, {'ecotaxa.tsv': tsv(rows, twice)})


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
  root = packing.tree(tmp_path / 'root', {'ecotaxa.tsv': tsv([row(0)])})
  elsewhere = {'0.png': packing.picture(0), 'ecotaxa_b.tsv': tsv([row(7)])}
  packing.tree(tmp_path / 'elsewhere', elsewhere)
  (root / 'images').symlink_to(tmp_path / 'elsewhere')
  (root / 'images/back').symlink_to(root)
  export = read.export(str(root))
  assert [item.object_id for item in export.objects] == ['o00', 'o07']
  assert export.files.read('images/0.png') == packing.picture(0)


def test_the_command_accounts_for_every_row(tmp_path, python):
  files = whole(9)
  files['ecotaxa_b.tsv'] = tsv([row(0), row(10, object_id='')])
  path = pack(tmp_path, files, 'zip')
  done = python('-m', 'plankton_jax.data.ecotaxa', path)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == (
    '11 read = 9 objects + 0 further images + 1 repeated rows + 1 left out'
  )


@pytest.mark.parametrize(
  ('image_rank', 'image'),
  [('lowest', 'a'), ('highest', 'b'), (2, 'c'), (100, 'b'), (7, 'a')],
)
@pytest.mark.parametrize('order', [1, -1])
def test_the_image_of_a_rank(tmp_path, image_rank, image, order):
  rows = [
    row(0, img_file_name='b.png', img_rank=100),
    row(0, img_file_name='a.png', img_rank=0),
    row(0, img_file_name='c.png', img_rank=2),
  ][::order]
  path = str(pack(tmp_path, {'ecotaxa.tsv': tsv(rows)}, 'zip'))
  export = read.export(path, image_rank)
  assert [item.image for item in export.objects] == [f'{image}.png']
  assert export.further == 2
  for wrong in ('first', True, 1.5):
    with pytest.raises(InputError, match=r'data.image_rank='):
      read.export(path, wrong)


def test_ranks_give_different_contents(tmp_path, load):
  rows = [
    row(n, img_rank=r, img_file_name=f'images/{n + 48 * r}.png')
    for n in range(48)
    for r in (0, 1)
  ]
  files = {f'images/{n}.png': packing.picture(n) for n in range(96)}
  path = str(pack(tmp_path, files | {'ecotaxa.tsv': tsv(rows)}, 'zip'))
  fields = {'source': 'ecotaxa', 'path': path, 'unseen_classes': ('Ж',)}
  low, high = load('low', **fields), load('high', image_rank=1, **fields)
  assert low.fingerprint != high.fingerprint
  assert (low.ids == high.ids).all() and (low.images != high.images).any()


def test_measures_of_objects_are_kept(tmp_path, load):
  """Two tables with other columns; texts, and EcoTaxa's own, are none."""
  columns = (
    *(*COLUMNS, 'object_area', 'object_lat', 'object_note', 'object_esd'),
    'acq_pixel',
  )
  rows = [
    [*row(n), 10.5 * n, 43.0, 'x' if n % 2 else '1', 'NA' if n == 7 else n, 73]
    for n in range(24)
  ]
  other = (*COLUMNS, 'object_area', 'object_major', 'process_pixel')
  more = [[*row(n), -n, 2 * n, 0.147] for n in range(24, 48)]
  files = {f'images/{n}.png': packing.picture(n) for n in range(48)}
  files |= {'ecotaxa_a.tsv': tsv(rows, columns)}
  files |= {'ecotaxa_b.tsv': tsv(more, other, types=True)}
  path = str(pack(tmp_path, files, 'zip'))
  data = load(source='ecotaxa', path=path, unseen_classes=('Ж',))
  found = data.measures
  assert found.keys() == {
    *('height', 'width', 'pixel_um'),
    *('object_area', 'object_esd', 'object_major'),
  }
  for at, id in enumerate(data.ids.tolist()):
    n = int(read.object_id(id)[1:])
    first = n < 24
    expected = {
      'height': 9,
      'width': 11,
      'pixel_um': 73 if first else 147,
      'object_area': 10.5 * n if first else -n,
      'object_esd': n if first and n != 7 else np.nan,
      'object_major': np.nan if first else 2 * n,
    }
    for name, value in expected.items():
      np.testing.assert_allclose(found[name][at], value, rtol=1e-6)
  fields = {'source': 'ecotaxa', 'path': path, 'unseen_classes': ('Ж',)}
  given = load('o', **fields, pixel_um=2.0)
  assert (given.measures['pixel_um'] == 2).all()


@pytest.mark.parametrize('seed', range(60))
def test_no_row_is_lost_whatever_the_cells(seed):
  """Rows without line breaks in cells are rows, quotes or not."""
  rng = np.random.default_rng(seed)
  pieces = ['"', '""', 'a', ' ', "'", ',', ';', '\\', 'é', '']
  cells = [
    [
      ''.join(rng.choice(pieces, rng.integers(0, 4)))
      if rng.random() < 0.3
      else f'v{line}_{column}'
      for column in range(6)
    ]
    for line in range(60)
  ]
  for line, values in enumerate(cells):
    values[2] = f'id{line}'
  columns = [f'object_c{i}' for i in range(6)]
  text = '\n'.join('\t'.join(values) for values in [columns, *cells])
  got = table.parse(text.encode(), '')
  assert len(got.rows) + len(got.bad) == 60
  assert list(got.column('object_c2')) == [f'id{line}' for line in range(60)]


def test_files_of_one_name_in_an_archive_are_told(tmp_path):
  path = packing.pack_zip(tmp_path / 'x.zip', whole(3))
  with (
    zipfile.ZipFile(path, 'a') as archive,
    pytest.warns(UserWarning, match='Duplicate name'),
  ):
    archive.writestr('images/0.png', packing.picture(0))  # the same content
    archive.writestr('ecotaxa_export_7.tsv', tsv([row(2)]))
  export = read.export(str(path))
  assert [item.object_id for item in export.objects] == ['o02']
  assert [name for name, _ in export.skipped] == ['ecotaxa_export_7.tsv']
  assert 'another file of this name' in export.skipped[0][1]


def test_tables_in_capitals_and_archives_called_tables(tmp_path):
  files = {'ECOTAXA_1.TSV': tsv([row(0)]), 'images/0.png': packing.picture(0)}
  folder = packing.tree(tmp_path / 'export', files)
  assert len(select.objects(str(folder)).items) == 1
  path = packing.pack_zip(tmp_path / 'ecotaxa_1.tsv', files)
  assert len(read.export(str(path)).objects) == 1
  files = {'a/ecotaxa_images/1.png': packing.picture(1)}
  folder = packing.tree(tmp_path / 'images', files)
  assert select.objects(str(folder)).ids == ('a/ecotaxa_images/1.png',)


def test_letters_of_the_states_are_read(tmp_path):
  rows = [
    row(n, object_annotation_status=status)
    for n, status in enumerate(('V', 'p', 'D', 'Validated'))
  ]
  files = {'ecotaxa_1.tsv': tsv(rows)}
  export = read.export(str(packing.tree(tmp_path, files)))
  assert [item.status for item in export.objects] == [
    *('validated', 'predicted', 'dubious', 'validated')
  ]


def test_what_is_left_out_beforehand_is_accounted_for_anew(load, tmp_path):
  """The records of the same images were written with another row left out."""
  rows = [row(n) for n in range(24)]
  packing.tree(tmp_path / 'images', whole(24))
  table = tmp_path / 'images/ecotaxa_export_7.tsv'
  for number, extra in enumerate(([], [row(30, object_id='')], [])):
    table.write_bytes(tsv(rows + extra))
    found = load(f'w{number}', source='ecotaxa', unseen_classes=())
    assert found.accounts.read == 24 + len(extra)
    assert sum(found.accounts.kept.values()) == 24
    assert found.accounts.left_out == ({'no object_id': 1} if extra else {})
