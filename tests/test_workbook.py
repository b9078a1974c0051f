"""Lists of images in Excel workbooks, as people keep them."""

import datetime
import io
import re
import zipfile

import openpyxl
import packing
import pytest

from analysis.files import tables
from plankton_jax.data.ecotaxa import read, workbook
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError

IMAGES = {f'{n}.png': packing.picture(n) for n in range(3)}
ROWS = [
  ('filename', 'label'),
  ('0.png', 'Calanus'),
  ('1.png', 'été'),
  ('2.png',),
]
FOUND = [('0.png', 'Calanus'), ('1.png', 'été'), ('2.png', '')]


def book(**sheets):
  """The bytes of a workbook of these rows."""
  made = openpyxl.Workbook()
  made.remove(made.active)
  for title, rows in sheets.items():
    sheet = made.create_sheet(title)
    for row in rows:
      sheet.append(row)
    if rows[:1] == [('Our labels',)]:
      sheet.merge_cells('A1:D1')
  stream = io.BytesIO()
  made.save(stream)
  return stream.getvalue()


def taxa(export):
  return [(item.image, item.taxon) for item in export.objects]


@pytest.mark.parametrize(
  'sheets',
  [
    {'a': ROWS},
    {'a': [('Our labels',), (), *ROWS, (), (None, '')]},
    {'notes': [('By hand',), ('in 2024', 'x')], 'empty': [], 'a': ROWS},
    {'a': [('file', 'n', 'taxon'), *((f, 1.0, t) for f, t in FOUND)]},
    {'a': [('image', 'taxon'), *((int(f[0]), t) for f, t in FOUND)]},
    {'a': [(None, 'Datei', 'Taxon'), *((None, *row) for row in FOUND)]},
  ],
)
def test_a_list_in_a_workbook_comes_in_whole(tmp_path, sheets):
  files = {'Labels.XLSX': book(**sheets), '~$Labels.XLSX': b'locked', **IMAGES}
  place = packing.tree(tmp_path / 'set', files)
  for path in (
    place,
    place / 'Labels.XLSX',
    packing.pack_zip(tmp_path / 'set.zip', files),
  ):
    found = read.export(str(path))
    named = [(found.files.find(image), taxon) for image, taxon in taxa(found)]
    assert named == FOUND and not found.skipped


def test_rows_of_a_workbook_are_named_by_their_numbers(tmp_path):
  rows = [('Our labels',), (), *ROWS, (), ('', 'no file'), ('9\n.png', '"a"')]
  path = packing.tree(tmp_path, {'l.xlsx': book(a=rows), **IMAGES})
  found = read.export(str(path))
  assert found.skipped == (('l.xlsx:8', 'no img_file_name'),)
  assert found.objects[-1].taxon == '"a"'


def test_cells_are_written_as_tables_have_them(tmp_path):
  cells = {
    'img_file_name': '0.png',
    'object_id': 20210503000012.0,
    'object_date': datetime.datetime(2021, 5, 3),
    'object_time': datetime.time(7, 8, 9),
    'object_lat': '43,5',
    'object_lon': 7.25,
    'object_annotation_category': 'Calanus',
    'object_area': 1e-7,
    'sample_id': '007',
    'acq_id': 12,
  }
  data = book(a=[[*cells], [*cells.values()]])
  data = edited(
    data, b'<v>12</v>', b'<v>1.2E1</v>'
  )  # as Excel writes long ones
  files = {'e.xlsx': data, **IMAGES}
  found = read.export(str(packing.tree(tmp_path, files)))
  (item,) = found.objects
  assert item.id == '007/12/20210503000012'
  assert item.moment == '2021-05-03T07:08:09Z'
  assert (item.latitude, item.longitude) == ('43.5', '7.25')
  assert found.measures.of([item.id])['object_area'] == [pytest.approx(1e-7)]


def test_of_several_sheets_the_first_is_read_and_the_others_told(tmp_path):
  data = book(a=ROWS, b=[('n',), (1,)], c=ROWS)
  found = read.export(str(packing.tree(tmp_path, {'l.xlsx': data, **IMAGES})))
  assert taxa(found) == FOUND
  assert 'l.xlsx:1: sheet a is read, not c: save each as' in found.notes[0]


def test_a_workbook_without_a_list_says_so(tmp_path):
  path = packing.tree(tmp_path, {'l.xlsx': book(a=[('a', 'b')]), **IMAGES})
  for place in (path, path / 'l.xlsx'):
    with pytest.raises(
      InputError, match=r'l.xlsx: no sheet has a column of im'
    ):
      read.export(str(place))


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (book(a=ROWS)[:2000], r'not a readable Excel workbook \(File is not a zip'),
    (book(a=ROWS).replace(b'PK\1\2', b'PK\1\3'), 'not a readable Excel workbo'),
    (b'\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1', 'or with a password: save it as .xl'),
    (b'PAR1', 'it is a Parquet file: save it as .xlsx or .csv'),
    (b'', 'it is empty'),
  ],
)
def test_workbooks_that_cannot_be_read_are_one_line(tmp_path, data, message):
  path = packing.tree(tmp_path, {'l.xlsx': data}) / 'l.xlsx'
  with pytest.raises(InputError, match=re.escape(str(path))) as caught:
    read.export(str(path))
  assert re.search(message, str(caught.value)) and '\n' not in str(caught.value)


def test_a_workbook_too_large_to_unpack_is_refused(monkeypatch):
  monkeypatch.setattr('plankton_jax.data.sources.archives.MAX_BYTES', 500)
  with pytest.raises(InputError, match='larger than 0 MiB'):
    workbook.sheets(book(a=ROWS), 'l.xlsx')


def edited(data, pattern, new):
  """A workbook with a part of its XML replaced."""
  stream = io.BytesIO()
  with (
    zipfile.ZipFile(io.BytesIO(data)) as before,
    zipfile.ZipFile(stream, 'w') as after,
  ):
    texts = {name: before.read(name) for name in before.namelist()}
    assert any(re.search(pattern, text) for text in texts.values())
    for name, text in texts.items():
      after.writestr(name, re.sub(pattern, new, text))
  return stream.getvalue()


def test_what_a_workbook_holds_besides_cells_is_no_warning():
  data = edited(book(a=ROWS), b'<cellStyles.*</cellStyles>', b'')
  with pytest.warns(UserWarning, match='no default style'):
    openpyxl.load_workbook(io.BytesIO(data), read_only=True)
  assert workbook.sheets(data, '') == {
    'a': 'filename\tlabel\n0.png\tCalanus\n1.png\tété\n2.png\n'.encode()
  }


def test_other_tables_may_be_workbooks_too(tmp_path):
  path = tmp_path / 'taxa.xlsx'
  path.write_bytes(
    book(about=[('x', 'y')], a=[('Taxon', 'lineage'), ('été', 'a>b')])
  )
  header, rows = tables.read_csv(path, 'taxa', ('taxon',))
  assert header == ['taxon', 'lineage']
  assert rows == [(2, {'taxon': 'été', 'lineage': 'a>b'})]


def test_a_list_beside_images_is_told_to_folders(tmp_path):
  for ending, message in (
    ('xlsx', r"; or, of a list of images, data.source='ecotaxa'"),
    ('xls', r'; or, of a list of images, saved as .xlsx or .csv, data.source='),
  ):
    files = {f'l.{ending}': b'', **IMAGES}
    path = packing.tree(tmp_path / ending, files)
    with pytest.raises(InputError, match=message):
      folder.scan_classes(str(path))


def test_a_sheet_may_say_a_wrong_size(tmp_path):
  data = edited(book(a=ROWS), b'<dimension ref="[^"]*"', b'<dimension ref="A1"')
  files = {'l.xlsx': data, **IMAGES}
  assert taxa(read.export(str(packing.tree(tmp_path, files)))) == FOUND


def test_a_formula_counts_by_its_last_result(tmp_path):
  rows = [('file', 'label'), ('0.png', '=3+4')]
  data = edited(book(a=rows), b'</f><v ?/?>(</v>)?', b'</f><v>7</v>')
  files = {'l.xlsx': data, **IMAGES}
  found = read.export(str(packing.tree(tmp_path, files)))
  assert taxa(found) == [('0.png', '7')]
