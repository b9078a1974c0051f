"""Objects predicted where they are, and what EcoTaxa is told of them."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from analysis import predict
from analysis.figures import reliability
from analysis.figures.style import plt
from analysis.files import folders, originals
from plankton_jax.data.ecotaxa import read, rules, table
from plankton_jax.errors import InputError
from tests import packing, shades, test_ifcb
from tests.analysis_runs import run as run_analysis
from tests.test_ecotaxa import tsv

COLUMNS = (
  *('img_file_name', 'img_rank', 'object_id', 'object_annotation_status'),
  *('object_annotation_category', 'object_annotation_category_id'),
  *('object_annotation_hierarchy', 'objid', 'sample_id', 'acq_id'),
  *('object_lat', 'object_lon', 'object_date', 'object_time'),
  *('object_depth_min', 'object_depth_max', 'object_annotation_person_name'),
)  # fmt: skip
IDS = {'dark': '45', 'light': '84963'}
# Grey level, status and taxon of each object.
OBJECTS = {
  'new_dark': (33, '', ''),
  'new_light': (215, '', ''),
  'machine': (28, 'predicted', 'light'),
  'wrong': (30, 'validated', 'light'),
  'odd': (125, 'predicted', 'dark'),
  'doubt': (222, 'dubious', 'light'),
}


def picture(level):
  held = io.BytesIO()
  Image.fromarray(np.full((6, 9), level, np.uint8)).save(held, 'PNG')
  return held.getvalue()


def row(name, number, **changes):
  _, status, taxon = OBJECTS[name]
  fields = {
    'img_file_name': f'images/{name}.png',
    'img_rank': 0,
    'object_id': name,
    'object_annotation_status': status,
    'object_annotation_category': taxon,
    'object_annotation_category_id': IDS.get(taxon, ''),
    'object_annotation_hierarchy': f'living>{taxon}' if taxon else '',
    'objid': 7000 + number,
    'sample_id': 'S 1',
    'acq_id': f'A/{number % 2}',
    'object_lat': 43.5,
    'object_lon': 7.25,
    'object_date': '20240131',
    'object_time': '42',
    'object_depth_min': 0,
    'object_depth_max': 75.5,
    'object_annotation_person_name': 'Ada' if status == 'validated' else '',
  }
  return fields | changes


def export(tmp_path, rows=None, columns=COLUMNS):
  """Writes an export of OBJECTS as a zip archive; returns its path."""
  rows = rows or [row(name, n) for n, name in enumerate(OBJECTS)]
  files = {f'images/{name}.png': picture(OBJECTS[name][0]) for name in OBJECTS}
  lines = [[one[name] for name in columns] for one in rows]
  files['ecotaxa_export.tsv'] = tsv(lines, columns)
  return packing.pack_zip(tmp_path / 'export.zip', files)


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
  """Grey levels; pictures of one shade; a figure that is quickly drawn."""
  monkeypatch.setattr(
    reliability, 'draw', lambda ways: plt.figure(figsize=(1, 1))
  )
  monkeypatch.setattr(folders, 'encoder', lambda source: shades.Encoder())
  monkeypatch.setattr(
    originals,
    'reader',
    lambda source: lambda key: np.full((5, 9), 90, np.uint8),
  )


def run(tmp_path, place, **asked):
  """Predicts into tmp_path/out; returns the Result."""
  return run_analysis(
    predict,
    [shades.run(tmp_path / 'run')],
    tmp_path / 'out',
    asked=predict.Asked(export=str(place), **asked),
  )


def predicted(tmp_path):
  with (tmp_path / 'out/predictions.csv').open(encoding='utf-8') as file:
    return {line['object_id']: line for line in csv.DictReader(file)}


def updates(tmp_path):
  """Reads the update table back as the importer would, by object_id."""
  path = tmp_path / 'out/ecotaxa_update.tsv'
  found = table.parse(path.read_bytes(), path.name)
  assert not list(rules.problems(path.name, found))
  return found, {
    values[found.columns.index('object_id')]: dict(
      zip(found.columns, values, strict=True)
    )
    for values in found.rows
  }


def test_an_export_comes_back_as_the_table_that_updates_it(tmp_path, capsys):
  found = run(tmp_path, export(tmp_path))
  lines = predicted(tmp_path)
  assert lines.keys() == OBJECTS.keys()
  assert (
    lines['wrong']
    | {
      'sample': 'S 1',
      'acquisition': 'A/1',
      'status': 'validated',
      'annotated_as': 'light',
      'class': 'dark',
      'file': 'images/wrong.png',
    }
    == lines['wrong']
  )
  assert lines['odd']['class'] == 'unknown'
  parsed, rows = updates(tmp_path)
  assert parsed.columns == (
    *('img_file_name', 'object_id', 'object_annotation_category'),
    *('object_annotation_category_id', 'object_annotation_status'),
  )
  # Neither the unknown one, nor what a person said.
  assert {
    name: (line['object_annotation_category'], line['object_annotation_status'])
    for name, line in rows.items()
  } == {
    'new_dark': ('dark', 'predicted'),
    'new_light': ('light', 'predicted'),
    'machine': ('dark', 'predicted'),
  }
  assert rows['machine']['object_annotation_category_id'] == '45'
  assert '2 objects that a person annotated keep that' in ' '.join(found.notes)
  assert '6 read = 6 predicted' in capsys.readouterr().out
  # What is read back are the same objects, by their ids and images.
  (tmp_path / 'back').mkdir()
  (tmp_path / 'out/ecotaxa_update.tsv').rename(
    tmp_path / 'back/ecotaxa_update.tsv'
  )
  back = read.export(str(tmp_path / 'back'))
  assert {(o.object_id, o.image, o.taxon) for o in back.objects} == {
    ('new_dark', 'images/new_dark.png', 'dark'),
    ('new_light', 'images/new_light.png', 'light'),
    ('machine', 'images/machine.png', 'dark'),
  }


def test_a_persons_annotation_is_overwritten_only_on_request(tmp_path):
  run(tmp_path, export(tmp_path), overwrite_validated=True)
  _, rows = updates(tmp_path)
  assert rows.keys() == OBJECTS.keys() - {'odd'}
  assert rows['wrong']['object_annotation_category'] == 'dark'


def test_ids_that_objects_share_update_none_of_them(tmp_path):
  rows = [row(name, n) for n, name in enumerate(OBJECTS)]
  for n in (0, 2):
    rows[n]['object_id'] = 'same'
  rows[2]['sample_id'], rows[2]['acq_id'] = 'S 2', 'other'
  found = run(tmp_path, export(tmp_path, rows))
  assert updates(tmp_path)[1].keys() == {'new_light'}
  assert '2 objects share their object_id' in ' '.join(found.notes)


def test_a_table_alone_without_annotation(tmp_path):
  names = ('new_dark', 'new_light')
  lines = [(f'{name}.png', name) for name in names]
  files = {f'{name}.png': picture(OBJECTS[name][0]) for name in names}
  files['ecotaxa_raw.tsv'] = tsv(lines, ('img_file_name', 'object_id'))
  folder = packing.tree(tmp_path / 'raw', files)
  (folder / 'other.png').write_bytes(b'')
  for place in (folder / 'ecotaxa_raw.tsv', folder):
    run(tmp_path, place)
    assert [one['class'] for one in predicted(tmp_path).values()] == [
      *('dark', 'light')
    ]
    parsed, rows = updates(tmp_path)
    assert rows.keys() == set(names)
    assert 'object_annotation_category_id' not in parsed.columns


def test_bins_and_folders_are_new_objects(tmp_path):
  regions = [
    (1, 10, 20, np.full((6, 9), 33, np.uint8)),
    (2, 1, 1, np.full((6, 9), 215, np.uint8)),
    (3, -1, -1, test_ifcb.EMPTY),
  ]
  test_ifcb.make(tmp_path / 'bins', test_ifcb.NEW, regions)
  shades.write(tmp_path / 'images/a.png', 33)
  for place, id in (('bins', f'{test_ifcb.NEW}_00001'), ('images', 'a')):
    found = run(tmp_path, tmp_path / place)
    lines = predicted(tmp_path)
    assert lines[id]['class'] == 'dark'
    path = tmp_path / 'out/ecotaxa_predictions.tsv'
    parsed = table.parse(path.read_bytes(), path.name)
    assert not list(rules.problems(path.name, parsed))
    assert parsed.column('img_file_name')[0] == f'{id}.png'
    assert not (tmp_path / 'out/ecotaxa_update.tsv').exists()
  assert 'sample' not in lines['a']
  run(tmp_path, tmp_path / 'bins')
  assert predicted(tmp_path)[f'{test_ifcb.NEW}_00001']['sample'] == (
    test_ifcb.NEW
  )
  found = run(tmp_path, tmp_path / 'bins')
  assert found.shown[0].footer == (
    '3 read = 2 predicted + 1 trigger without a region'
  )


def test_places_that_hold_nothing_are_one_line(tmp_path):
  with pytest.raises(InputError, match=r'--export: .*none is not a folder'):
    run(tmp_path, tmp_path / 'none')
  (tmp_path / 'x.zip').write_bytes(b'nothing')
  with pytest.raises(InputError, match=r'--export: .* neither a folder'):
    run(tmp_path, tmp_path / 'x.zip')
  test_ifcb.make(tmp_path / 'bins', test_ifcb.NEW, [])
  with pytest.raises(InputError, match='holds no object'):
    run(tmp_path, tmp_path / 'bins')
