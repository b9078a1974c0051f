"""Tables of EcoTaxa that went through a spreadsheet, a script or two hands."""

import contextlib
import io
import os
import unicodedata

import numpy as np
import packing
import pytest

from plankton_jax.data import select
from plankton_jax.data.ecotaxa import (
  annotations,
  lists,
  numbers,
  read,
  rules,
  source,
  table,
  write,
)
from plankton_jax.data.ecotaxa.__main__ import show_export
from plankton_jax.data.sources import contents
from plankton_jax.data.sources.files import digest as digest_file
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError
from tests.test_ecotaxa import COLUMNS, row, tsv


def export(tmp_path, *rows, columns=COLUMNS, types=False, files=(), **options):
  """Reads an export of one table; rows name their own images."""
  tree = {'ecotaxa_a.tsv': tsv(rows, columns, types=types)}
  tree |= {f: packing.picture(i) for i, f in enumerate(files)}
  return read.export(str(packing.tree(tmp_path / 'e', tree)), **options)


@pytest.mark.parametrize(
  'top', [b'\n \t\t\n', b'sep=\t\n', b'\xef\xbb\xbfSEP=;\r\n\r\n']
)
def test_lines_above_the_header_are_passed_over(top):
  text = top + b'object_id\tobject_x\n[t]\t[f]\na\t1\n'
  found = table.parse(text, '')
  assert found.columns == ('object_id', 'object_x')
  assert found.types == ('[t]', '[f]') and found.rows == (('a', '1'),)
  assert found.lines == (text.count(b'\n'),)


def test_types_of_other_letters_are_no_object_and_refused_by_the_importer():
  found = table.parse(b'object_id\timg_file_name\tobject_x\n[t]\t\t[i]\n', '')
  assert found.types == ('[t]', '', '[i]') and not found.rows
  reasons = list(rules.problems('ecotaxa.tsv', found))
  assert any("object_x: type '[i]' is neither" in reason for reason in reasons)


def test_tables_that_were_joined_keep_their_rows_and_name_the_headers():
  one = b'object_id\tobject_x\n[t]\t[f]\n'
  found = table.parse(one + b'a\t1\n' + one.upper() + b'b\t2\n[t]\tc\n', '')
  assert found.rows == (('a', '1'), ('b', '2'), ('[t]', 'c'))
  again = 'the header or its types again'
  assert found.bad == ((4, again), (5, again))


def test_a_quoted_cell_that_begins_with_a_quote_is_closed(tmp_path):
  rows = [
    write.predicted(
      img_file_name='"q".png',
      object_id='"q"',
      category='a',
      score=0.5,
      neighbours=[],
    )
  ]
  found = table.parse(write.encode(tmp_path / 'ecotaxa.tsv', rows), '')
  assert found.column('object_id') == ['"q"'] and not found.notes


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'PK\3\4\x14\0', 'it is an Excel workbook or a zip archive: save it as'),
    (
      b'\xd0\xcf\x11\xe0\xa1\xb1',
      r'of the old form, or with a password: save it as \.x',
    ),
    (b'%PDF-1.4\n', 'it is a PDF file: save it'),
    (b'\x1f\x8b\x08\0', 'it is packed by gzip: save it'),
    (b' <!DOCTYPE html>\n', 'a web page: download the table again, logged in'),
  ],
)
def test_what_is_no_table_is_told_by_its_kind(data, message):
  with pytest.raises(InputError, match=message) as caught:
    table.parse(data, 'ecotaxa.tsv')
  assert '\n' not in str(caught.value)


def test_places_that_are_no_export_are_told_by_their_kind(tmp_path):
  for name, message in (
    ('e.xls', r'nor a table ecotaxa\*.tsv: save it as .xlsx or .csv'),
    ('e.ods', 'save it as .xlsx or .csv'),
    ('e.parquet', 'save it as .xlsx or .csv'),
    ('e.xlsx', r'not a readable Excel workbook \(.*\): save it as .xlsx or'),
    ('e.bin', 'it is an Excel workbook: give it a name that ends in .xlsx'),
  ):
    book = packing.pack_zip(tmp_path / name, {'xl/workbook.xml': b'<a/>'})
    with pytest.raises(InputError, match=message) as caught:
      read.export(str(book))
    assert '\n' not in str(caught.value)
  (tmp_path / 'e.7z').write_bytes(b'7z')
  with pytest.raises(InputError, match=r'ecotaxa\*.tsv: unpack it'):
    read.export(str(tmp_path / 'e.7z'))


@pytest.mark.parametrize(
  ('cells', 'expected'),
  [
    ('1,5 2 -0,25', '1.5 2 -0.25'),
    ('0,125', '0.125'),
    ('1234,567', '1234.567'),
    ('1,5e-3 ,5', '1.5e-3 .5'),
    ('1,234 56,789', '1,234 56,789'),  # may be thousands
    ('1,234 5,6', '1.234 5.6'),
    ('1,234,567 5,6', '1,234,567 5.6'),
    ('a,b 1.5', 'a,b 1.5'),
  ],
)
def test_decimal_commas(cells, expected):
  assert list(numbers.points(cells.split())) == expected.split()


def test_blanks_and_apostrophes_may_part_thousands():
  cells = ['1 234,5', "12'345'678,0", '1 234 567', '1 2', '3 4567', "'123"]
  values, bad = numbers.floats(cells)
  np.testing.assert_allclose(values[:3], [1234.5, 12345678, 1234567])
  assert bad == [3, 4, 5]


def test_commas_in_ranks_positions_and_measures(tmp_path):
  columns = (*COLUMNS, 'object_lat', 'object_lon', 'object_area', 'acq_pixel')
  found = export(
    tmp_path,
    [*row(0, img_rank='1,0', img_file_name='b'), '43,685', '-7', '2,5', '10,6'],
    [*row(0, img_rank='0,0', img_file_name='a'), '43,685', '-7', '2,5', '10,6'],
    columns=columns,
  )
  (item,) = found.objects
  assert (item.image, item.latitude, item.longitude) == ('a', '43.685', '-7')
  values = dict(
    zip(found.measures.names, found.measures.values[0], strict=True)
  )
  assert values == pytest.approx({'object_area': 2.5, 'pixel_um': 10.6})


def test_cells_that_are_no_number_are_unknown_and_noted(tmp_path):
  columns = (*COLUMNS, 'object_area', 'object_text', 'acq_pixel')
  cells = [
    ('1', '1', '10'), ('#DIV/0!', 'x', '-1'), ('', '1_000', '0'),
    ('1e99', '2', 'inf'),
  ]  # fmt: skip
  path = tmp_path / 'e'
  path.mkdir()
  text = tsv([[*row(n), *more] for n, more in enumerate(cells)], columns)
  kinds = ['[t]'] * len(columns)
  kinds[columns.index('object_area')] = '[f]'
  head, _, rest = text.partition(b'\n')
  typed = b'\n'.join([head, '\t'.join(kinds).encode(), rest])
  (path / 'ecotaxa.tsv').write_bytes(typed)
  found = read.export(str(path))
  assert found.measures.names == ('object_area', 'pixel_um')
  nan = np.nan
  np.testing.assert_array_equal(
    found.measures.values, [[1, 10], [nan, nan], [nan, nan], [np.inf, nan]]
  )
  assert found.notes == (
    "ecotaxa.tsv: object_area: 1 of 4 cells are no number, such as '#DIV/0!' in"
    ' line 4',
    "ecotaxa.tsv: acq_pixel: 3 of 4 cells are no positive number, such as '-1'"
    ' in line 4',
  )


def test_taxa_are_written_in_one_way(tmp_path):
  names = (
    *('Protopéridinium a', 'Protopéridinium\u00a0 a', 'Protopéridinium\na'),
    'Proto\u200bpéri\xaddinium a\ufeff',
  )
  forms = ('NFC', 'NFD', 'NFD', 'NFC')
  rows = [
    row(n, object_annotation_category=unicodedata.normalize(form, name))
    for n, (name, form) in enumerate(zip(names, forms, strict=True))
  ]
  found = export(tmp_path, *rows)
  assert {item.taxon for item in found.objects} == {names[0]}


def lineage(number, taxon, path, **changes):
  return row(
    number,
    object_annotation_category=taxon,
    object_annotation_hierarchy=path,
    **changes,
  )


def test_taxa_of_one_name_and_several_parents_are_kept_apart(tmp_path):
  found = export(
    tmp_path,
    lineage(0, 'egg', 'living>Copepoda>egg'),
    lineage(1, 'egg', 'living > Fish > Egg'),
    lineage(2, 'egg', ''),
    lineage(3, 'tail<Fish', 'living>Fish>tail'),
    lineage(4, 'tail<Fish', 'living>Pisces>tail'),
    lineage(5, 'other', 'living>other'),
    lineage(6, 'other', 'not-living>stone'),
  )
  assert [item.taxon for item in found.objects] == [
    'egg<Copepoda', 'tail<Fish', 'egg<Fish', 'other', 'egg', 'other',
    'tail<Fish',
  ]  # fmt: skip
  assert found.notes == (
    'egg stands for several taxa, which are kept apart: egg<Copepoda, egg<Fish',
  )


def test_one_category_id_is_one_taxon_whatever_its_lineage(tmp_path):
  columns = (*COLUMNS, 'object_annotation_category_id')
  paths = ('living>Copepoda>egg', 'living>Maxillopoda>egg')
  rows = [[*lineage(n, 'egg', path), 7] for n, path in enumerate(paths)]
  found = export(tmp_path, *rows, columns=columns)
  assert {item.taxon for item in found.objects} == {'egg'} and not found.notes


def annotated(status, *taxa):
  """Rows of one object, an image each."""
  return [
    row(
      0,
      img_file_name=f'{at}.png',
      img_rank=at,
      object_annotation_status=status,
      object_annotation_category=taxon,
    )
    for at, taxon in enumerate(taxa)
  ]


@pytest.mark.parametrize(
  ('rows', 'status', 'taxon', 'noted'),
  [
    (annotated('validated', 'a', 'a'), 'validated', 'a', False),
    (annotated('validated', 'a', 'b'), 'dubious', 'a', True),
    (annotated('predicted', 'a', 'b'), 'unclassified', '', True),
    (
      [*annotated('predicted', 'a', 'b'), *annotated('validated', 'c')],
      'validated',
      'c',
      False,
    ),
    (
      [*annotated('', '', ''), *annotated('dubious', 'c')],
      'dubious',
      'c',
      False,
    ),
  ],
)
def test_rows_that_contradict_each_other(tmp_path, rows, status, taxon, noted):
  found = export(tmp_path, *rows)
  (item,) = found.objects
  assert (item.status, item.taxon, item.image) == (status, taxon, '0.png')
  assert len(found.notes) == noted
  if noted:
    assert 'S0/A0/o00 (a, b)' in found.notes[0]
  assert 1 + found.further + found.repeated == len(rows)


@pytest.mark.parametrize(
  ('dates', 'status', 'taxon', 'noted'),
  [
    (('20230102', '20240101'), 'validated', 'b', 'of which the last counts'),
    (('20240101', '2023-01-02'), 'validated', 'a', 'of which the last counts'),
    (('20240101', '20240101'), 'dubious', 'a', 'and count as dubious'),
    (('20240101', ''), 'dubious', 'a', 'and count as dubious'),
    (('02/01/2023', '20240101'), 'dubious', 'a', 'and count as dubious'),
  ],
)
def test_of_two_annotations_the_last_counts(
  tmp_path, dates, status, taxon, noted
):
  rows = [
    [*own, day]
    for own, day in zip(annotated('validated', 'a', 'b'), dates, strict=True)
  ]
  columns = (*COLUMNS, 'object_annotation_date')
  found = export(tmp_path, *rows, columns=columns)
  (item,) = found.objects
  assert (item.status, item.taxon) == (status, taxon)
  assert noted in found.notes[0] and len(found.notes) == 1


def test_images_that_no_row_names_are_counted(tmp_path):
  files = ['a%20b.png', 'e\u0301.PNG', 'left.jpg', '.hidden.png', 'x.txt']
  found = export(
    tmp_path,
    row(0, img_file_name='a b.png'),
    row(1, img_file_name='É.png'),
    row(2, img_file_name='gone.png'),
    files=files,
  )
  assert [found.files.read(item.image) for item in found.objects[:1]] == [
    packing.picture(0)
  ]
  assert found.notes == (
    '1 image files are in no row that can be used, such as left.jpg',
  )


@pytest.mark.parametrize(
  ('date', 'time', 'expected'),
  [
    ('20210503', '90500', '2021-05-03T09:05:00Z'),
    ('2021-05-03', '9:05', '2021-05-03T09:05:00Z'),
    ('2021/05/03', '09:05:07.25', '2021-05-03T09:05:07Z'),
    ('20210503.0', '', '2021-05-03'),
    ('2021-5-3', '', ''),
    ('10/11/12', '', ''),  # which day it is nobody knows
    ('03/05/2021', '', ''),
    ('20210503', 'noon', ''),
    ('20210503', '9:5:0', ''),
  ],
)
def test_only_dates_and_times_that_are_clear_are_read(date, time, expected):
  item = read.Object('o', 'o.png', date=date, time=time)
  assert item.moment == expected


@pytest.mark.parametrize('none', ['nan', 'NA', 'None', 'NULL', '<NA>', '#N/A'])
def test_words_for_no_value_are_no_taxon_state_or_id(tmp_path, none):
  found = export(
    tmp_path,
    row(0, object_annotation_category=none),
    row(1, object_annotation_category=none, object_annotation_status=none),
    row(2, sample_id=none, acq_id=none, object_annotation_hierarchy=none),
    row(3, object_id=none),
    row(4, img_file_name=none),
  )
  assert [
    (x.object_id, x.status, x.taxon, x.sample) for x in found.objects
  ] == [
    ('o02', 'validated', 'Ж', ''),
    ('o01', 'unclassified', '', 'S1'),
  ]
  assert [reason for _, reason in found.skipped] == [
    *('validated without a category', 'no object_id', 'no img_file_name'),
  ]


def test_a_column_that_is_there_twice_may_say_the_same(tmp_path):
  rows = [[*row(n), f'S{n % 4}'] for n in range(2)]
  assert len(export(tmp_path, *rows, columns=(*COLUMNS, 'sample_id')).objects)
  rows[1][-1] = 'other'
  with pytest.raises(InputError, match="'sample_id' is there twice; delete"):
    export(tmp_path, *rows, columns=(*COLUMNS, 'sample_id'))


@pytest.mark.parametrize('rank', ['nan', 'inf', 'first'])
def test_a_rank_that_is_no_number_is_the_lowest(tmp_path, rank):
  found = export(
    tmp_path,
    row(0, img_rank=rank, img_file_name='a'),
    row(0, img_rank=1, img_file_name='b'),
  )
  assert [item.image for item in found.objects] == ['a'] and found.further == 1


def copies(tmp_path, *, changed=(), **annotation):
  """A folder that holds an export and, zipped, the same with changes."""
  rows = [row(n, img_file_name=f'{n}.png') for n in range(3)]
  files = {f'{n}.png': packing.picture(n) for n in range(3)}
  later = [row(n, img_file_name=f'{n}.png', **annotation) for n in range(3)]
  other = files | {f'{n}.png': packing.picture(50 + n) for n in changed}
  packing.tree(tmp_path / 'e', {'ecotaxa_a.tsv': tsv(rows)} | files)
  table = {'ecotaxa_a.tsv': tsv(later)}
  packing.pack_zip(tmp_path / 'e/a.zip', table | other)
  return read.export(str(tmp_path / 'e'))


def test_an_export_beside_its_archive_counts_once(tmp_path):
  found = copies(tmp_path)
  assert [x.id for x in found.objects] == [f'S{n}/A{n}/o0{n}' for n in range(3)]
  assert found.repeated == 3 and not found.notes


def test_of_two_copies_the_persons_word_counts(tmp_path):
  found = copies(
    tmp_path,
    object_annotation_status='predicted',
    object_annotation_category='other',
  )
  said = [(x.taxon, x.status) for x in found.objects]
  taxa = ('Calanoida', 'other<living', 'Ж')
  assert said == [(taxon, 'validated') for taxon in taxa]


def test_a_copy_with_another_image_is_another_object(tmp_path):
  found = copies(tmp_path, changed=[1])
  assert len(found.objects) == 6 and found.repeated == 0
  assert any('kept apart by their names' in note for note in found.notes)


def test_the_row_names_of_r_are_no_values(tmp_path):
  text = b'object_id\timg_file_name\n"1"\ta\ta.png\n"4"\tb\tb.png\n'
  found = table.parse(text, '')
  assert found.columns == ('', 'object_id', 'img_file_name')
  assert list(found.column('img_file_name')) == ['a.png', 'b.png']
  # Not where a row lacks its number, or one cell is too many.
  for row_ in (b'x\ta\ta.png\n', b'a\ta.png\n', b'1\ta\tb\tc\n', b'2\tb\t\n'):
    assert table.parse(text + row_, '').columns[0] == 'object_id'


def test_a_place_without_a_table_says_what_it_holds(tmp_path):
  files = {'i/0.png': packing.picture(0), '__MACOSX/x.tsv': b''}
  place = packing.pack_zip(tmp_path / 'a.zip', files)
  with pytest.raises(
    InputError, match=r"it holds 1 images: data\.source='folder' reads"
  ):
    read.export(str(place))
  packing.tree(tmp_path / 'b', files | {'export_7.csv': b'a;b'})
  with pytest.raises(
    InputError, match=r'if export_7.csv is the table, call its'
  ):
    read.export(str(tmp_path / 'b'))


def test_an_image_in_another_folder_is_named_and_not_taken(tmp_path):
  found = export(
    tmp_path,
    *(
      row(n, img_file_name=f'{n}{e}') for n, e in enumerate(('.png', '', '.x'))
    ),
    files=['deep/0.png', 'deep/1.png'],
  )
  for number in (0, 1):
    with pytest.raises(ValueError, match=f'but deep/{number}.png: write this'):
      found.files.read(found.objects[number].image)
  with pytest.raises(ValueError, match=r'^no such file in the export$'):
    found.files.read(found.objects[2].image)


def test_no_annotation_at_all_is_not_told_to_choose_another(tmp_path):
  columns = COLUMNS[:3]
  bare = packing.tree(
    tmp_path / 'a', {'ecotaxa.tsv': tsv([row(0)[:3]], columns)}
  )
  with pytest.raises(InputError, match='export it with its annotations, obj'):
    source.from_export(str(bare), ('validated',), '')
  half = packing.tree(
    tmp_path / 'b', {'ecotaxa.tsv': tsv([row(0)[:4]], COLUMNS[:4])}
  )
  with pytest.raises(InputError, match='no column is object_annotation_categ'):
    source.from_export(str(half), ('validated',), '')


@pytest.mark.parametrize(
  ('numbers', 'taxa'),
  [
    (('1', '2'), ['egg<part<cod', 'egg<part<eel']),
    (('', ''), ['egg', 'egg']),  # perhaps one tree, before and after a change
    (('1', '1'), ['egg', 'egg']),
    (('1', ''), ['egg', 'egg']),
  ],
)
def test_taxa_whose_parents_share_a_name_are_told_apart(numbers, taxa):
  items = [
    Object(f'{n}', '', 'validated', 'egg', f'living>{fish}>part>egg')
    for n, fish in enumerate(('cod', 'eel'))
  ]
  items = [
    item._replace(category_id=number)
    for item, number in zip(items, numbers, strict=True)
  ]
  found, notes = annotations.by_parent(items)
  assert [item.taxon for item in found] == taxa
  assert bool(notes) == (taxa[0] != 'egg')


@pytest.mark.parametrize(
  ('lines', 'rows', 'noted'),
  [
    # Never closed: of this line and of no other.
    (['a\t"x', 'b\t2\t3'], [('a', '"x', ''), ('b', '2', '3')], [2]),
    # Closed by the quote of a later row.
    (['a\t"x', 'b\t2\t3"'], [('a', '"x', ''), ('b', '2', '3"')], [2]),
    (['a\t"x', 'y"'], [('a', 'x\ny', '')], []),
    (['a\t"x"y'], [('a', 'xy', '')], []),
    (['a\t"%s"' % ('x' * 140_000)], [('a', '"%s"' % ('x' * 140_000), '')], []),
  ],
)
def test_quotes_of_lines_with_too_few_cells(lines, rows, noted):
  text = '\n'.join(['object_id\tobject_x\tobject_y', *lines, ''])
  found = table.parse(text.encode(), '')
  assert list(found.rows) == rows
  assert [line for line, _ in found.notes] == noted


def test_bytes_of_no_known_encoding_are_letters():
  found = table.parse(b'object_id\tobject_x\na\t\x81\xe9\n', '')
  assert found.rows == (('a', '\x81é'),)


TABLE = tsv([row(n) for n in range(2)])
IMAGES = {f'images/{n}.png': packing.picture(n) for n in range(2)}
FIRST = {'images/0.png': IMAGES['images/0.png']}
SECOND = {'images/1.png': IMAGES['images/1.png']}


def zipped(files):
  stream = io.BytesIO()
  packing.pack_zip(stream, files)
  return stream.getvalue()


def named_as(form):
  return tsv([row(n, img_file_name=form.format(n)) for n in range(2)])


def separated(mark):
  lines = [COLUMNS, *(row(n) for n in range(2))]
  return '\n'.join(mark.join(map(str, line)) for line in lines).encode()


def without(column):
  at = COLUMNS.index(column)
  rows = [[*row(n)[:at], *row(n)[at + 1 :]] for n in range(2)]
  return tsv(rows, [*COLUMNS[:at], *COLUMNS[at + 1 :]])


@pytest.mark.parametrize(
  'files',
  [
    # Archives side by side.
    {'e_1.zip': zipped({'ecotaxa.tsv': TABLE, **FIRST}),
     'e_2.zip': zipped(SECOND)},
    {'ecotaxa.tsv': TABLE, 'a.zip': zipped(FIRST), 'b.zip': zipped(SECOND)},
    {'t.zip': zipped({'ecotaxa.tsv': TABLE}), **IMAGES},
    {'all.zip': zipped({'t.zip': zipped({'ecotaxa.tsv': TABLE}), **IMAGES})},
    # Paths of other machines and folders.
    {'tables/ecotaxa.tsv': named_as('../images/{}.png'), **IMAGES},
    {'ecotaxa.tsv': named_as('../images/{}.png'), **IMAGES},
    {'ecotaxa.tsv': named_as('C:/Users/x/images/{}.png'), **IMAGES},
    {'ecotaxa.tsv': named_as('//server/x/images/{}.png'), **IMAGES},
    {'ecotaxa.tsv': named_as('file:///C:/images/{}.png'), **IMAGES},
    {'ecotaxa.tsv': named_as('https://x.org/images/{}.png'), **IMAGES},
    # Other endings of files.
    {'ecotaxa.tsv': named_as('images/{}.jpg'), **IMAGES},
    {'ecotaxa.tsv': named_as('images/{}'), **IMAGES},
    # Tables of other programs and hands.
    {'export_7.tsv': TABLE, **IMAGES},
    {'list.csv': separated(','), 'notes.txt': b'x', **IMAGES},
    {'ecotaxa.tsv': separated(';'), **IMAGES},
    {'ecotaxa.tsv': separated('|'), **IMAGES},
    {'ecotaxa.tsv': b'# from R\n# 2024\n' + TABLE, **IMAGES},
    {'ecotaxa.tsv': b'My project\t\t\n\n' + TABLE, **IMAGES},
    {'ecotaxa.tsv': without('object_annotation_category'), **IMAGES},
    {'ecotaxa.tsv': without('object_annotation_status'), **IMAGES},
    {'ecotaxa.tsv': tsv([row(0, object_annotation_status='')])
     + tsv([row(1, object_annotation_status='')]), **IMAGES},
  ],
)  # fmt: skip
def test_what_a_person_can_use_comes_in_whole(tmp_path, files):
  found = read.export(str(packing.tree(tmp_path / 'e', files)))
  assert [(x.object_id, x.taxon, x.status) for x in found.objects] == [
    ('o00', 'Calanoida', 'validated'), ('o01', 'other<living', 'validated')
  ]  # fmt: skip
  for item, data in zip(found.objects, IMAGES.values(), strict=True):
    assert found.files.read(found.files.find(item.image)) == data
  assert {why for _, why in found.skipped} <= {'the header or its types again'}


def test_a_table_of_any_name_or_separator_is_read_by_itself(tmp_path):
  files = {'list.csv': separated(';'), 'ecotaxa.tsv': tsv([row(5)]), **IMAGES}
  place = packing.tree(tmp_path, files) / 'list.csv'
  found = read.export(str(place))
  assert len(found.objects) == 2
  assert found.notes == ("list.csv:1: cells are separated by ';', not by tabs",)
  reasons = [*rules.problems('ecotaxa.tsv', table.parse(separated(','), ''))]
  assert "line 1: cells are separated by ',', not by tabs" in reasons
  with pytest.raises(InputError, match=r'a.tsv: no tab.* first line; it is em'):
    read.export(str(packing.tree(tmp_path, {'a.tsv': b' '}) / 'a.tsv'))
  (tmp_path / 'b.csv').write_bytes(separated(',') + b'\n"x,')
  with pytest.raises(InputError, match=r'b.csv: line 4: unexpected end of'):
    read.export(str(tmp_path / 'b.csv'))


def test_an_image_of_another_table_is_not_taken(tmp_path):
  other = tsv([row(0, object_id='x'), row(1, object_id='y')])
  files = {
    'a.zip': zipped({'ecotaxa.tsv': TABLE}), 'ecotaxa.tsv': other, **IMAGES,
    'b/c.zip': zipped({'ecotaxa.tsv': TABLE}),
    'b/d.zip': zipped({'ecotaxa.tsv': other, **IMAGES}),
  }  # fmt: skip
  found = read.export(str(packing.tree(tmp_path, files)))
  readable = set()
  for item in found.objects:
    with contextlib.suppress(ValueError):
      found.files.find(item.image)
      readable.add(item.object_id)
  assert readable == {'x', 'y'} and len(found.objects) == 6


def test_paths_that_nothing_here_ends_like_stay_out(tmp_path):
  found = export(
    tmp_path,
    row(0, img_file_name='https://x.org/vault/0.png'),
    row(1, img_file_name='D:\\9.png'),
    files=['deep/0.png'],
  )
  assert [why for _, why in found.skipped] == [
    'https://x.org/vault/0.png: no such file in the export, but deep/0.png:'
    ' write this into img_file_name',
    'D:\\9.png: no such file in the export',
  ]


def test_names_of_a_zip_may_be_utf8_that_does_not_say_so(tmp_path):
  rows = [row(0, img_file_name='é/Øre.png'), row(1, img_file_name='ß.png')]
  names = {'ee/OOre.png': packing.picture(0), 'ss.png': packing.picture(1)}
  data = zipped({'ecotaxa.tsv': tsv(rows), **names})
  for ascii, text in ((b'ee/OOre', 'é/Øre'), (b'ss.png', 'ß.png')):
    data = data.replace(ascii, text.encode())
  (tmp_path / 'e.zip').write_bytes(data)
  found = read.export(str(tmp_path / 'e.zip'))
  assert [found.files.read(item.image) for item in found.objects] == [
    packing.picture(0), packing.picture(1)
  ]  # fmt: skip


def test_joined_tables_of_several_encodings_keep_their_letters(tmp_path):
  text = [
    tsv([row(n, object_annotation_category='Protopéridinium')], encoding=code)
    for n, code in enumerate(('utf-8-sig', 'cp1252', 'utf-8-sig'))
  ]
  (tmp_path / 'ecotaxa.tsv').write_bytes(b''.join(text))
  found = read.export(str(tmp_path))
  assert [item.taxon for item in found.objects] == ['Protopéridinium'] * 3


def test_taxa_may_be_known_by_their_numbers_alone(tmp_path):
  columns = (*COLUMNS[:4], 'object_annotation_category_id')
  rows = [[*row(n)[:4], 45 + n] for n in range(2)]
  found = export(tmp_path, *rows, columns=columns)
  assert [item.taxon for item in found.objects] == ['45', '46']
  assert found.notes == (
    'ecotaxa_a.tsv: no row has a category: object_annotation_category_id names'
    ' the taxa',
  )


def test_states_that_nobody_knows_are_shown_and_told(tmp_path, capsys):
  rows = [row(n, object_annotation_status='Validé') for n in range(2)]
  path = str(packing.tree(tmp_path, {'ecotaxa.tsv': tsv(rows)}))
  show_export(path)
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split()[-1] == 'validé'
  assert lines[2].split()[:6] == ['Calanoida', '0', '0', '0', '0', '1']
  with pytest.raises(InputError, match='status must be one of validated, pred'):
    source.from_export(path, ('validated',), '')


def test_only_images_that_changed_are_hashed_again(tmp_path, monkeypatch):
  packed = {'ecotaxa.tsv': tsv([row(2)]), 'images/2.png': packing.picture(2)}
  other = row(3, object_annotation_status='predicted')
  files = {'ecotaxa.tsv': tsv([row(0), row(1), other]), **IMAGES}
  files['images/3.png'] = packing.picture(3)
  root = packing.tree(tmp_path / 'export', files)
  packing.pack_zip(root / 'more.zip', packed)
  for name in IMAGES:
    os.utime(root / name, (1e9, 1e9))
  hashed = []

  def digest(path):
    hashed.append(path.name)
    return digest_file(path)

  monkeypatch.setattr(contents, 'digest', digest)

  def start(cache_dir):
    hashed.clear()
    found = source.from_export(
      str(root), ('validated',), '', cache_dir=cache_dir
    )
    assert found.total == 3
    return found.fingerprint, sorted(hashed)

  first, read_at_first = start(tmp_path / 'caches')
  assert read_at_first == ['0.png', '1.png']  # the archive has hashes
  assert start(tmp_path / 'caches') == (first, [])
  assert start(None) == (first, read_at_first)
  (root / 'images/1.png').write_bytes(packing.picture(7))
  changed, read_again = start(tmp_path / 'caches')
  assert changed != first and read_again == ['1.png']
  assert start(None)[0] == changed
  opened = read.export(str(root)).files
  names = ['images/1.png', 'more.zip/images/2.png', 'images/0.png']
  hashes = source._digests(opened, names, tmp_path / 'caches')
  assert hashes == list(map(opened.digest, names))


def test_an_earlier_copy_of_a_table_elsewhere_counts_once(tmp_path):
  files = {'ecotaxa.tsv': TABLE, 'old/ecotaxa.tsv': TABLE, **IMAGES}
  found = read.export(str(packing.tree(tmp_path, files)))
  assert [(x.object_id, x.image) for x in found.objects] == [
    ('o00', 'images/0.png'), ('o01', 'images/1.png')
  ]  # fmt: skip
  assert found.repeated == 2 and not found.notes


@pytest.mark.parametrize('mended', ['table', 'file'])
def test_utf8_that_was_read_as_something_else_is_mended(tmp_path, mended):
  wrong = 'é°'.encode().decode('cp1252')
  data = tsv([row(0, object_annotation_category='é°', img_file_name='é°.png')])
  if mended == 'table':
    data = data.decode('cp1252').encode()
  name = wrong if mended == 'file' else 'é°'
  files = {'ecotaxa.tsv': data, f'{name}.png': packing.picture(0)}
  found = read.export(str(packing.tree(tmp_path, files)))
  (item,) = found.objects
  assert item.taxon == 'é°' and not found.notes
  assert found.files.read(item.image) == packing.picture(0)
  assert [table.mend(text) for text in ('é', 'Ж', 'Ã', wrong)] == [
    *('é', 'Ж', 'Ã', 'é°')
  ]


def decoded_as(taxon, encoding):
  cells = tsv([row(0, object_annotation_category=taxon)], encoding='utf-8')
  found = table.parse(cells.decode().encode(encoding), '')
  return found.column('object_annotation_category')[0], found.notes


@pytest.mark.parametrize(
  ('taxon', 'encoding', 'noted'),
  [
    ('Protopéridinium à méduse', 'mac_roman', 'Mac Roman'),
    ('Dinoflagellé d’été', 'cp1252', 'Windows-1252'),
    ('l’eau', 'cp1252', 'Windows-1252'),
    ('Méduse', 'mac_roman', 'Mac Roman'),
    ('Öre', 'cp1252', 'Windows-1252'),
    ('ÉTÉ', 'cp1252', 'Windows-1252'),
    ('Копепода é', 'utf-16-le', ''),
    ('桡足类', 'utf-16-be', ''),
  ],
)
def test_letters_of_encodings_before_unicode(taxon, encoding, noted):
  found, notes = decoded_as(taxon, encoding)
  assert found == taxon
  expected = f'letters, not UTF-8, are read as {noted}'
  assert notes == (((1, expected),) if noted else ())


def test_what_many_tables_have_in_common_is_said_once(tmp_path):
  tables = {
    f'ecotaxa_{n}.tsv': tsv([row(3 * n, acq_id='été')], encoding='cp1252')
    for n in range(5)
  }
  found = read.export(str(packing.tree(tmp_path, tables)))
  assert found.notes == (
    'ecotaxa_0.tsv:1, ecotaxa_1.tsv:1, ecotaxa_2.tsv:1 and 2 more: letters,'
    ' not UTF-8, are read as Windows-1252',
  )


@pytest.mark.parametrize(
  ('column', 'cells', 'sides', 'noted'),
  [
    ('acq_pixel', ('2,7 µm', '0.073 mm/px', '-1 mm', ''), (2.7, 73), True),
    ('acq_pixel', ('0.073', '0.2', '5'), (73, 0.2, 5), True),
    ('process_pixel_um', ('0.065', '73'), (0.065, 73), False),
    ('process_pixel_size_mm', ('0.0106', '10.6 um'), (10.6, 10.6), False),
    ('acq_resolution_pixel_per_micron', ('2.5', '0'), (0.4,), True),
    ('acq_pixel_area_mm', ('3', '4'), (), False),
    ('sample_pixel_um', ('3', '4'), (), False),
  ],
)
def test_sides_of_pixels_by_the_units_of_columns_and_cells(
  column, cells, sides, noted
):
  rows = tuple((cell,) for cell in cells)
  found = table.Table('', (column,), (), rows, tuple(range(len(rows))))
  of, notes = numbers.read(found)
  if sides:
    expected = [*sides, *[np.nan] * (len(cells) - len(sides))]
    np.testing.assert_allclose(of['pixel_um'], expected, rtol=1e-6)
  else:
    assert not of
  assert bool(notes) == noted


@pytest.mark.parametrize(
  ('column', 'cell', 'value'),
  [
    ('sample_tot_vol', '120,5 m3', 120.5),
    ('sample_tot_vol', '500 mL', np.nan),  # not 500 m³
    ('sample_total_volume', '50 L', 50),
    ('acq_imaged_volume', '0.5_ml', 0.5),
    ('acq_imaged_volume', '1 m³', np.nan),
    ('acq_sub_part', '4', 4),
  ],
)
def test_volumes_in_their_own_unit_alone(column, cell, value):
  found = table.Table('', (column,), (), ((cell,), ('7',)), (2, 3))
  of, notes = numbers.read(found)
  np.testing.assert_allclose(of[column], [value, 7], rtol=1e-6)
  assert bool(notes) == np.isnan(value)


def test_several_images_of_one_rank_are_one_object_and_told(tmp_path):
  rows = [row(0), row(0, img_file_name='images/1.png'), row(2)]
  path = str(packing.tree(tmp_path, {'ecotaxa.tsv': tsv(rows), **IMAGES}))
  found = read.export(path)
  assert [item.image for item in found.objects] == [
    'images/0.png', 'images/2.png'
  ]  # fmt: skip
  assert found.further == 1 and not found.skipped
  assert found.notes[0].startswith(
    '1 objects have several images of one img_rank, of which the first row of'
    f" the table is taken: lines 2, 3 of {path}/ecotaxa.tsv give the id 'o00';"
  )


def test_one_id_for_most_images_is_no_id(tmp_path):
  rows = [row(0, img_file_name=f'images/{n}.png') for n in range(4)]
  packing.tree(tmp_path, {'ecotaxa.tsv': tsv([*rows, row(5)])})
  with pytest.raises(InputError, match=r'lines 2, 3, 4, 5 of .* of its own'):
    read.export(str(tmp_path))


LISTED = [('images/0.png', 'Calanoida'), ('images/1.png', 'other<living')]


def listing(header, form='{}', mark=',', end='', pick=slice(None)):
  """A list of `LISTED`, with the images' names from `pick` on, in a form."""
  rows = [header, *((form.format(n[pick]), taxon) for n, taxon in LISTED)]
  lines = (mark.join(f'"{cell}"' for cell in cells) for cells in rows)
  return ('\r\n'.join(lines) + end).encode()


BARE = slice(len('images/'), None)


@pytest.mark.parametrize(
  'files',
  [
    {'l.csv': listing(('filename', 'label'), end='\r\n,\r\n , \r\n')},
    {'l.csv': listing(('Image Name', 'Species'), mark=';')},
    {'l.txt': listing(('Datei', 'Taxon'), mark='\t'), 'readme.txt': b'a, b'},
    {'l.csv': b'sep=;\r\n' + listing(('file', 'class'), mark=';')},
    {'l.csv': b'# by hand\n' + listing(('path', 'txo.display_name'))},
    {'l.csv': listing(('file', 'taxon'), pick=BARE)},
    {'l.csv': b'image,path,label,status\n'
     b'0,images/0.png,Calanoida,new\n1,images/1.png,other<living,\n'},
    {'meta/l.csv': listing(('file', 'taxon'))},
    {'l.csv': listing(('file', 'taxon'), r'C:\my data\{}')},
    {'l.csv': listing(('file', 'taxon'), 'file:///C:/my%20data/{}')},
    {'l.csv': listing(('file', 'taxon'), 'data/train/{}')},
    {'ecotaxa.csv': listing(('img_file_name', 'classif'), pick=BARE),
     'ecotaxa.tsv': listing(('img_file_name', 'category'), mark='\t')},
  ],
)  # fmt: skip
def test_a_list_of_images_with_other_columns_comes_in_whole(tmp_path, files):
  found = read.export(str(packing.tree(tmp_path, files | IMAGES)))
  assert [(x.image, x.taxon, x.status) for x in found.objects] == [
    (*listed, 'validated') for listed in LISTED
  ]
  assert not found.skipped
  assert any('are read: ' in note for note in found.notes)


def test_a_list_whose_images_lie_in_class_folders(tmp_path):
  text = listing(('file', 'taxon'), pick=BARE)
  files = {f'{n}/{n}.png': packing.picture(n) for n in range(2)}
  path = packing.tree(tmp_path, {'l.csv': text, **files})
  found = read.export(str(path))
  assert [item.image for item in found.objects] == ['0/0.png', '1/1.png']
  packing.tree(path, {'9/1.png': packing.picture(9)})  # which of the two?
  found = read.export(str(path))
  for item in found.objects:
    with pytest.raises(ValueError, match='no such file in the export, but '):
      found.files.read(item.image)


@pytest.mark.parametrize(
  ('files', 'image'),
  [
    (('0.png', 'a/0.png', 'a/1.png'), '0.png'),  # beside the list
    (('a/0.png', 'b/0.png', 'a/1.png', 'b/1.png'), '0.png'),  # which of two?
    (('a/0.png', 'b/0.png', 'a/1.png'), 'a/0.png'),
  ],
)
def test_a_list_of_images_that_lie_in_several_folders(tmp_path, files, image):
  text = listing(('file', 'taxon'), pick=BARE)
  tree = {file: packing.picture(0) for file in files}
  found = read.export(str(packing.tree(tmp_path, {'l.csv': text, **tree})))
  assert found.objects[0].image == image


def test_a_folder_that_holds_few_of_a_lists_images_is_not_meant():
  named = [f'old/{n}.png' for n in range(4)]
  assert lists.moved(named, [f'here/{n}.png' for n in range(2)]) is None
  meant = lists.moved(named, [f'here/{n}.png' for n in range(3)])
  assert meant('old/3.png') == 'here/3.png'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (b'file,label,class\n0.png,1,a\n', 'column label or class may be meant by'),
    (b'raw,mask\n0.png,0.tif\n', 'column raw or mask may be meant by img_file'),
    (b'file,label,x min\n0.png,a,3\n', 'column x_min gives boxes within im'),
    (b'0.png,a\n1.png,b\n', '0.png, a, names no columns: write filename and'),
    (b'label,count\na,1\n', "'img_file_name' is missing .it has label, count"),
  ],
)
def test_lists_that_may_mean_several_things_are_refused(
  tmp_path, text, message
):
  path = packing.tree(tmp_path, {'l.csv': text, **IMAGES}) / 'l.csv'
  with pytest.raises(InputError, match=message):
    read.export(str(path))


def test_lists_that_contradict_themselves_lose_no_image(tmp_path):
  text = b'file,label\nimages/0.png,a\nimages/0.png,b\nimages/1.png,nan\n'
  found = read.export(str(packing.tree(tmp_path, {'l.csv': text, **IMAGES})))
  assert [item.status for item in found.objects] == ['dubious', 'unclassified']


def test_a_readme_called_as_a_table_is_none(tmp_path):
  text = listing(('file', 'taxon'))
  readme = {'ecotaxa_readme.txt': b'Images of EcoTaxa.\nSee its site.\n'}
  path = packing.tree(tmp_path / 'a', {'l.csv': text, **readme, **IMAGES})
  assert len(read.export(str(path)).objects) == 2
  assert select.objects(str(path)).ids == tuple(IMAGES)  # as of any folder
  path = packing.tree(tmp_path / 'b', {**readme, **IMAGES})
  assert select.objects(str(path)).ids == tuple(IMAGES)
  with pytest.raises(InputError, match=r'it holds 2 images: data\.source='):
    read.export(str(path))
  packing.tree(path, {'ecotaxa_1.txt': TABLE})
  assert len(select.objects(str(path)).items) == 2


def test_a_list_is_parsed_once(tmp_path, monkeypatch):
  parsed = []

  def parse(data, place, names=()):
    parsed.append(place)
    return plain(data, place, names)

  plain = table.parse
  monkeypatch.setattr(table, 'parse', parse)
  files = {'l.csv': listing(('file', 'taxon')), 'other.csv': b'a,b\n', **IMAGES}
  found = read.export(str(packing.tree(tmp_path, files)))
  assert len(found.objects) == 2 and not found.files.parsed
  assert parsed == [f'{tmp_path}/l.csv', f'{tmp_path}/other.csv']
