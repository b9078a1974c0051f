"""Tables for EcoTaxa: what its importer refuses, and predictions and back."""

import csv
import io

import numpy as np
import packing
import pytest

from plankton_jax.data.ecotaxa import read, rules, table, write
from plankton_jax.errors import InputError


def as_importer(data):
  """The rows of a table as EcoTaxa reads it: Latin-1 but for a mark."""
  utf8 = data.decode('latin-1')[:3] == 'ï»¿'
  text = data.decode('utf-8-sig' if utf8 else 'latin-1')
  rows = csv.DictReader(io.StringIO(text), delimiter='\t', quotechar='"')
  return next(rows), list(rows)


def predictions():
  return [
    write.predicted(
      img_file_name=f'images/ж "{n}".png',
      object_id=f'o{n}',
      category='' if n == 2 else 'other<living',
      score=np.float32(0.5) if n else 1,
      neighbours=[f'copepod/{n}{k}.png' for k in range(5)],
    )
    for n in range(3)
  ]


def test_predictions_go_out_and_come_back(tmp_path):
  path = tmp_path / 'deep/ecotaxa_predictions.tsv'
  rows = [
    row | {'sample_id': 'S', 'acq_id': f'A{i}'}
    for i, row in enumerate(predictions())
  ]
  write.write_tsv(path, rows)
  types, got = as_importer(path.read_bytes())
  assert types == {
    'img_file_name': '[t]',
    'object_id': '[t]',
    'object_annotation_category': '[t]',
    'object_annotation_status': '[t]',
    'object_predicted_score': '[f]',
    **{f'object_neighbour_{k}': '[t]' for k in range(1, 6)},
    'sample_id': '[t]',
    'acq_id': '[t]',
  }
  assert [float(row['object_predicted_score']) for row in got] == [1, 0.5, 0.5]
  assert got[0]['img_file_name'] == 'images/ж "0".png'
  assert got[1]['object_neighbour_3'] == 'copepod/12.png'
  assert got[2]['object_annotation_status'] == ''
  files = {f'images/ж "{n}".png': packing.picture(n) for n in range(3)}
  packing.tree(path.parent, files)
  export = read.export(str(path.parent))
  assert export.skipped == ()
  assert export.objects == tuple(
    read.Object(
      f'o{n}',
      f'images/ж "{n}".png',
      'unclassified' if n == 2 else 'predicted',
      '' if n == 2 else 'other<living',
      '',
      'S',
      f'A{n}',
    )
    for n in range(3)
  )
  assert export.files.read(export.objects[0].image) == packing.picture(0)


def test_values_are_kept_to_the_last_digit(tmp_path):
  path = tmp_path / 'ecotaxa.tsv'
  value = 0.1 + 0.2
  rows = [
    {'img_file_name': 'a', 'object_id': 'a', 'object_x': value, 'acq_id': 1},
    {'img_file_name': 'b', 'object_id': 'b', 'object_x': float('nan')},
    {'img_file_name': 'c', 'object_id': 'c', 'object_y': 'two\tlines\n'},
  ]
  write.write_tsv(path, rows)
  types, got = as_importer(path.read_bytes())
  assert float(got[0]['object_x']) == value and got[0]['acq_id'] == '1'
  assert [row['object_x'] for row in got[1:]] == ['', '']
  assert got[2]['object_y'] == 'two\tlines\n'
  assert (types['object_x'], types['object_y']) == ('[f]', '[t]')


def test_long_neighbours_are_cut_to_what_fits(tmp_path):
  row = write.predicted(
    img_file_name='a',
    object_id='a',
    category='b',
    score=0.1,
    neighbours=['x' * 300 + '/1.png'],
  )
  write.write_tsv(tmp_path / 'ecotaxa.tsv', [row])
  assert row['object_neighbour_1'].endswith('x/1.png')
  assert len(row['object_neighbour_1']) == 250


GOOD = {
  'img_file_name': 'a.png',
  'object_id': 'a',
  'object_annotation_category': 'Calanoida',
  'object_annotation_status': 'predicted',
}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'object_id': 'x' * 256}, 'column object_id: 256 characters, 255 at most'),
    ({'img_file_name': 'x' * 256}, 'column img_file_name: 256 characters'),
    ({'object_note': 'x' * 251}, 'column object_note: 251 characters, 250'),
    ({'object_id': ' '}, 'line 3: no object_id'),
    ({'score': 1}, 'column score: must begin object_, acq_,'),
    ({'img_score': 1}, 'column img_score: must begin object_, acq_,'),
    ({'object': 1}, 'column object: must begin object_, acq_,'),
    ({'acq_x': 1}, 'column acq_id is missing, as there is acq_x'),
    ({'sample_x': 1}, 'column sample_id is missing, as there is sample_x'),
    ({'process_x': 1}, 'column process_id is missing'),
    (
      {'object_annotation_status': 'sure'},
      "status 'sure' is none of validated",
    ),
    ({'object_annotation_category': ''}, "status 'predicted' needs a category"),
    ({'object_annotation_status': ''}, "category 'Calanoida' needs a status"),
    ({'object_lat': 91}, 'column object_lat: 91 is beyond 90 degrees'),
    ({'object_lon': 'east'}, "column object_lon: 'east' is no number"),
    ({'object_x': float('-inf')}, "column object_x: '-inf' is no number"),
    ({'object_date': '1 May'}, "column object_date: '1 May' must be YYYYMMDD"),
    ({'object_time': 'noon'}, "column object_time: 'noon' must be"),
    (
      {f'object_t{i}': 'x' for i in range(21)},
      r'21 free columns object_\* of type \[t\]: 20 at most',
    ),
    (
      {f'object_n{i}': 1 for i in range(501)},
      r'501 free columns object_\* of type \[f\]: 500 at most',
    ),
    (
      {'sample_id': 's'} | {f'sample_n{i}': 1 for i in range(31)},
      r'31 free columns sample_\* of type \[t\]: 30 at most',
    ),
  ],
)
def test_what_ecotaxa_refuses_is_not_written(tmp_path, changes, message):
  path = tmp_path / 'ecotaxa.tsv'
  with pytest.raises(InputError, match=message) as caught:
    write.write_tsv(path, [GOOD | changes])
  assert str(caught.value).startswith(f'{path}: EcoTaxa would refuse it: ')
  assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'field', ['img_file_name', 'object_id', 'object_annotation_category']
)
def test_a_name_that_is_no_text_is_named(tmp_path, field):
  # As Python reads a file's name whose bytes are not UTF-8.
  with pytest.raises(InputError, match=r'k\\udce4 is no UTF-8 text: rename'):
    write.write_tsv(tmp_path / 'ecotaxa.tsv', [GOOD, GOOD | {field: 'k\udce4'}])
  assert not list(tmp_path.iterdir())


def test_rules_over_several_rows(tmp_path):
  path = tmp_path / 'ecotaxa.tsv'
  with pytest.raises(
    InputError, match=r'line 4: object a, image a.png are in line 3'
  ):
    write.write_tsv(path, [GOOD, GOOD])
  write.write_tsv(path, [GOOD, GOOD | {'img_file_name': 'b.png'}])
  parents = [
    GOOD | {'object_id': f'o{i}', 'sample_id': s, 'acq_id': 'A'}
    for i, s in enumerate('ST')
  ]
  with pytest.raises(
    InputError, match='line 4: acquisition A is of sample S too'
  ):
    write.write_tsv(path, parents)
  with pytest.raises(InputError, match='there is no row'):
    write.write_tsv(path, [])
  with pytest.raises(InputError, match='column object_id is missing'):
    write.write_tsv(path, [{'img_file_name': 'a', 'object_x': 1}])


@pytest.mark.parametrize(
  'name', ['predictions.tsv', 'Ecotaxa.tsv', 'ecotaxa.csv']
)
def test_file_names_that_the_importer_does_not_see(tmp_path, name):
  with pytest.raises(InputError, match=r'the name must be ecotaxa\*.tsv or'):
    write.write_tsv(tmp_path / name, [GOOD])


def test_limits_themselves_are_fine(tmp_path):
  row = GOOD | {
    'object_id': 'x' * 255,
    'object_note': 'x' * 250,
    'object_lat': -90,
    'object_lon': 180.0,
    'object_date': '2024-05-01',
    'object_time': '093000',
    'object_depth_min': 'NA',
    'object_annotation_category_id': 45072,
    'sample_id': 's',
    **{f'object_n{i}': 1 for i in range(500)},
    **{f'object_t{i}': 'x' for i in range(19)},
    **{f'sample_t{i}': 'x' for i in range(30)},
  }
  write.write_tsv(tmp_path / 'ecotaxa_ok.txt', [row])


def test_types_must_be_there_and_be_types():
  def said(data):
    return list(rules.problems('ecotaxa.tsv', table.parse(data, '')))

  assert said(b'img_file_name\tobject_id\na\tb\n') == [
    'the second line must give the types, [t] or [f], of all columns'
  ]
  assert said(b'img_file_name\tobject_id\n[t]\t\na\tb\n') == [
    "column object_id: type '' is neither [t] nor [f]"
  ]
  # The number alone is looked at where there is no column of names.
  head = b'img_file_name\tobject_id\tobject_annotation_category_id'
  rest = b'\tobject_annotation_status\n[t]\t[t]\t[f]\t[t]\na\tb\t7\tvalidated\n'
  assert said(head + rest) == []


def test_the_command_checks_a_table(tmp_path, python):
  path = tmp_path / 'ecotaxa.tsv'
  write.write_tsv(path, [GOOD, GOOD | {'object_id': 'b', 'img_file_name': 'b'}])
  (tmp_path / 'a.png').write_bytes(packing.picture(0))
  done = python('-m', 'plankton_jax.data.ecotaxa', path)
  assert done.returncode == 1
  assert done.stdout == f"{path}: line 4: image 'b' is not beside the table\n"
  (tmp_path / 'b').write_bytes(packing.picture(1))
  done = python('-m', 'plankton_jax.data.ecotaxa', path)
  assert done.returncode == 0
  assert done.stdout == f'{path}: 2 rows that EcoTaxa can import\n'
