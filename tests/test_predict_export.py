"""Objects predicted where they are, and what EcoTaxa is told of them."""

import csv
import http.server
import io
import json
import re
import shlex
import threading
import urllib.request

import numpy as np
import pytest
from PIL import Image

import plankton_jax
from analysis import embed, predict
from analysis.files import folders, inputs, new_images
from plankton_jax.data.ecotaxa import read, rules, table, write
from plankton_jax.errors import InputError
from tests import packing, shades, test_ifcb
from tests.analysis_runs import run as run_analysis
from tests.test_ecotaxa import tsv
from tests.test_readme import ROOT

COLUMNS = (
  *('img_file_name', 'img_rank', 'object_id', 'object_annotation_status'),
  *('object_annotation_category', 'object_annotation_category_id'),
  *('object_annotation_hierarchy', 'objid', 'sample_id', 'acq_id'),
  *('object_lat', 'object_lon', 'object_date', 'object_time'),
  *('object_depth_min', 'object_depth_max', 'object_annotation_person_name'),
)  # fmt: skip
IDS = {'dark': '45', 'light': '84963'}
CONFIDENCES = ('confidence', 'second_confidence')
SPLITS = ('train', 'val', 'test')
WHICH = ('nearest', 'second')
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
  shades.stand_in(monkeypatch)


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
    '3 read = 2 predicted + 1 trigger without a region\n'
    '  nearest labelled images: exact search'
  )


def test_places_that_hold_nothing_are_one_line(tmp_path):
  with pytest.raises(InputError, match=r'--export: .*none is not a folder'):
    run(tmp_path, tmp_path / 'none')
  (tmp_path / 'x.zip').write_bytes(b'nothing')
  with pytest.raises(
    InputError, match=r'x.zip is not a zip archive, or is cut'
  ):
    run(tmp_path, tmp_path / 'x.zip')
  test_ifcb.make(tmp_path / 'bins', test_ifcb.NEW, [])
  with pytest.raises(InputError, match='holds no object'):
    run(tmp_path, tmp_path / 'bins')


class Endpoint(http.server.BaseHTTPRequestHandler):
  """Takes object_set/classify_auto_multiple as EcoTaxa's API describes it."""

  def do_POST(self):
    size = int(self.headers['Content-Length'])
    body = json.loads(self.rfile.read(size))
    ids, taxa, scores = (
      body.get(name) for name in ('target_ids', 'classifications', 'scores')
    )
    fits = (
      self.path == '/api/object_set/classify_auto_multiple'
      and self.headers['Content-Type'] == 'application/json'
      and self.headers['Authorization'] == 'Bearer TOKEN'
      and body.keys() == {'target_ids', 'classifications', 'scores', 'keep_log'}
      and isinstance(body['keep_log'], bool)
      and len(ids) == len(taxa) == len(scores)
      and all(type(id) is int for id in ids)
      and len(set(ids)) == len(ids)
      and all(type(one) is int for some in taxa for one in some)
      and all(0.0 <= one <= 1.0 for some in scores for one in some)
      and [len(some) for some in taxa] == [len(some) for some in scores]
      and all(1 <= len(some) <= 3 for some in taxa)
    )
    self.send_response(200 if fits else 422)
    self.end_headers()
    self.wfile.write(str(len(ids)).encode())
    self.server.got = body

  def log_message(self, *args):
    pass


@pytest.fixture
def endpoint():
  """A server that checks the shape of the call."""
  with http.server.HTTPServer(('127.0.0.1', 0), Endpoint) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def test_the_documented_curl_line_sends_scores(tmp_path, endpoint):
  run(tmp_path, export(tmp_path))
  text = (ROOT / 'docs/ecotaxa.md').read_text()
  (line,) = re.findall(r'^curl .*?[^\\]$', text, re.MULTILINE | re.DOTALL)
  host = f'http://127.0.0.1:{endpoint.server_port}'
  line = line.replace('https://ecotaxa.obs-vlfr.fr', host)
  _, url, *options = shlex.split(line.replace('\\\n', ' '))
  given = list(zip(options[::2], options[1::2], strict=True))
  (file,) = (value for name, value in given if name == '--data')
  call = urllib.request.Request(
    url,
    (tmp_path / 'out' / file.removeprefix('@')).read_bytes(),
    dict(v.split(': ') for name, v in given if name == '--header'),
  )
  with urllib.request.urlopen(call) as answer:
    assert answer.read() == b'3'
  got = endpoint.got
  assert got['target_ids'] == [7002, 7000, 7001]  # sorted by name
  lines = predicted(tmp_path)
  for at, name in enumerate(('machine', 'new_dark', 'new_light')):
    classes = [int(IDS[lines[name][f'{n}_class']]) for n in WHICH]
    assert got['classifications'][at] == classes
    assert got['scores'][at] == pytest.approx(
      [float(lines[name][field]) for field in CONFIDENCES]
    )


def test_numbers_that_the_export_lacks_are_told(tmp_path):
  columns = [name for name in COLUMNS if name != 'objid']
  found = run(tmp_path, export(tmp_path, columns=columns))
  assert 'no numbers of its objects (objid)' in ' '.join(found.notes)
  assert not (tmp_path / 'out/ecotaxa_scores.json').exists()
  columns = [n for n in COLUMNS if n != 'object_annotation_category_id']
  found = run(tmp_path, export(tmp_path, columns=columns))
  assert 'the numbers of the taxa are not known' in ' '.join(found.notes)
  (tmp_path / 'taxa.csv').write_text('taxon,category_id\ndark,45\nother,1\n')
  found = run(
    tmp_path,
    export(tmp_path, columns=columns),
    taxa=str(tmp_path / 'taxa.csv'),
  )
  assert '1 objects are not in ecotaxa_scores.json' in ' '.join(found.notes)
  body = json.loads((tmp_path / 'out/ecotaxa_scores.json').read_text())
  assert body['target_ids'] == [7002, 7000]
  assert body['classifications'] == [[45], [45]]
  assert 'object_annotation_category_id' not in updates(tmp_path)[0].columns


@pytest.mark.parametrize(
  ('objects', 'message'),
  [
    ([(1, [])], 'object 1 has no taxon'),
    ([(1, [(2, 1.5)])], 'score is outside'),
    ([(1, [(2, float('nan'))])], 'score is outside'),
  ],
)
def test_a_call_that_ecotaxa_would_refuse_is_not_made(objects, message):
  with pytest.raises(ValueError, match=message):
    write.classify_request(objects)


def test_a_call_keeps_the_best_three_in_order():
  body = write.classify_request([(5, [(1, 0.1), (2, 0.5), (3, 0.2), (4, 0.2)])])
  assert body['classifications'] == [[2, 3, 4]]
  assert body['scores'] == [[0.5, 0.2, 0.2]]


def occurrences(tmp_path):
  with (tmp_path / 'out/occurrences.csv').open(encoding='utf-8') as file:
    return {line['catalogNumber']: line for line in csv.DictReader(file)}


def test_occurrences_in_darwin_core(tmp_path):
  (tmp_path / 'taxa.csv').write_text(
    'taxon,scientific_name,aphia_id,rank\ndark,Oithona,106485,genus\n'
  )
  found = run(tmp_path, export(tmp_path), taxa=str(tmp_path / 'taxa.csv'))
  lines = occurrences(tmp_path)
  # Without the unknown and the dubious.
  assert lines.keys() == OBJECTS.keys() - {'odd', 'doubt'}
  confidence = float(predicted(tmp_path)['new_dark']['confidence'])
  assert lines['new_dark'] == {
    'occurrenceID': 'S 1/A%2F0/new_dark',
    'eventID': 'S 1/A/0',
    'catalogNumber': 'new_dark',
    'basisOfRecord': 'MachineObservation',
    'occurrenceStatus': 'present',
    'eventDate': '2024-01-31T00:00:42Z',
    'decimalLatitude': '43.5',
    'decimalLongitude': '7.25',
    'geodeticDatum': 'EPSG:4326',
    'minimumDepthInMeters': '0',
    'maximumDepthInMeters': '75.5',
    'scientificName': 'Oithona',
    'scientificNameID': 'urn:lsid:marinespecies.org:taxname:106485',
    'taxonRank': 'genus',
    'higherClassification': 'living',
    'verbatimIdentification': 'dark',
    'identifiedBy': '',
    'identificationVerificationStatus': 'PredictedByMachine',
    'identificationReferences': (
      f'plankton_jax {plankton_jax.__version__}, run step 7'
    ),
    'identificationRemarks': f'probability {confidence:.4f}',
    'associatedMedia': 'images/new_dark.png',
  }
  human = lines['wrong']
  assert human['identificationVerificationStatus'] == 'ValidatedByHuman'
  assert human['verbatimIdentification'] == 'light'
  assert human['identifiedBy'] == 'Ada'
  assert human['identificationReferences'] == ''
  assert '2 of 4 without scientificNameID' in ' '.join(found.notes)
  run(tmp_path, export(tmp_path), overwrite_validated=True)
  lines = occurrences(tmp_path)
  assert lines['wrong']['verbatimIdentification'] == 'dark'
  assert {line['identificationVerificationStatus'] for line in lines.values()}


@pytest.mark.parametrize(
  ('changes', 'wanted'),
  [
    ({'object_date': '2024-02-30'}, {'eventDate': ''}),
    ({'object_date': '2024-01-31', 'object_time': ''}, {
      'eventDate': '2024-01-31'
    }),
    ({'object_time': '23:59:59'}, {'eventDate': '2024-01-31T23:59:59Z'}),
    ({'object_lat': 91}, {'decimalLatitude': '', 'geodeticDatum': ''}),
    ({'object_lon': 'nan'}, {'decimalLongitude': '', 'geodeticDatum': ''}),
    ({'object_lon': '7°30.5'}, {'decimalLongitude': ''}),
    ({'object_depth_min': '5 m'}, {'minimumDepthInMeters': ''}),
    ({'object_depth_min': '0,5'}, {'minimumDepthInMeters': '0.5'}),
  ],
)  # fmt: skip
def test_what_is_no_date_or_number_stays_empty(tmp_path, changes, wanted):
  rows = [row(name, n) for n, name in enumerate(OBJECTS)]
  rows[0] |= changes
  run(tmp_path, export(tmp_path, rows))
  line = occurrences(tmp_path)['new_dark']
  assert line | wanted == line


def test_bins_have_the_day_of_their_name(tmp_path):
  regions = [(1, 10, 20, np.full((6, 9), 33, np.uint8))]
  for name in (test_ifcb.OLD, test_ifcb.NEW):
    test_ifcb.make(tmp_path / 'bins', name, regions)
  run(tmp_path, tmp_path / 'bins')
  lines = occurrences(tmp_path)
  assert [
    lines[f'{name}_00001']['eventDate']
    for name in (test_ifcb.OLD, test_ifcb.NEW)
  ] == ['2012-01-28T08:15:15Z', '2013-05-26T09:52:07Z']


def test_predictions_back_off_to_what_is_sure(tmp_path):
  """Of two kinds of one order that look alike, the order is named."""
  names = ('dark', 'darkish', 'light')
  levels = {'dark': 30, 'darkish': 34, 'light': 220}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shades, 'LEVELS', levels)
    source = shades.run(tmp_path / 'run', names, val=40)
  (tmp_path / 'taxa.csv').write_text(
    'taxon,lineage\n'
    'dark,living>Copepoda>dark\n'
    'darkish,living>Copepoda>darkish\n'
    'light,living>Diatoma\n'
  )
  found = run_analysis(
    predict,
    [source],
    tmp_path / 'out',
    asked=predict.Asked(
      export=str(export(tmp_path)), taxa=str(tmp_path / 'taxa.csv'), sure=0.9
    ),
  )
  lines = predicted(tmp_path)
  assert lines['new_dark']['class'] in ('dark', 'darkish')
  assert lines['new_dark']['taxon'] == 'Copepoda'
  assert lines['new_dark']['rank'] == 'level 2'
  assert float(lines['new_dark']['taxon_confidence']) > 0.99
  assert lines['new_light']['taxon'] == 'light'
  assert lines['odd']['taxon'] == '' and lines['odd']['class'] == 'unknown'
  rows = updates(tmp_path)[1]
  assert rows['new_dark']['object_annotation_category'] == 'Copepoda'
  ranks = {line['rank']: line for line in found.tables['ranks.csv']}
  assert ranks['level 1']['nodes'] == 1
  assert ranks['level 2']['accuracy'] == 1.0
  assert ranks['level 3']['accuracy'] < 0.95
  measures = found.values['calibration.json']
  assert measures['taxonomic_distance'] == 2.0
  assert measures['named'] == 1.0
  assert 0.9 < measures['named_accuracy'] < 1.0
  line = occurrences(tmp_path)['new_dark']
  assert line['scientificName'] == 'Copepoda'
  assert line['higherClassification'] == 'living'
  assert 'sure of Copepoda' in (tmp_path / 'out/predictions.html').read_text(
    encoding='utf-8'
  )


@pytest.fixture
def foreign(tmp_path):
  """Embeddings of OBJECTS and of labelled images, as of another encoder."""
  splits = {name: shades.rows(name, 20, ('dark', 'light')) for name in SPLITS}
  whole = np.concatenate([rows.embedding for rows in splits.values()])
  names = [rows.class_names[n] for rows in splits.values() for n in rows.label]
  np.savez(
    tmp_path / 'labelled.npz',
    embedding=whole,
    label=np.array(names),
    split=np.repeat(list(SPLITS), 40),
  )
  levels = [level for level, _, _ in OBJECTS.values()]
  np.savez(
    tmp_path / 'new.npz',
    embedding=shades.embed(shades.grey(*levels)),
    id=np.array(list(OBJECTS)),
  )
  return inputs.from_files([tmp_path / 'labelled.npz'])


def run_files(tmp_path, source, name='new.npz', **asked):
  return run_analysis(
    predict,
    [source],
    tmp_path / 'out',
    asked=predict.Asked(images=str(tmp_path / name), **asked),
  )


def test_anyones_embeddings_predict_as_ours(tmp_path, foreign, monkeypatch):
  monkeypatch.setattr(folders, 'encoder', None)  # never asked
  found = run_files(tmp_path, foreign)
  lines = predicted(tmp_path)
  assert [lines[name]['class'] for name in OBJECTS] == [
    *('dark', 'light', 'dark', 'dark', 'unknown', 'light')
  ]
  assert lines['new_dark']['neighbour_1'].isdecimal()  # a row's number
  measures = found.values['calibration.json']
  assert measures['accuracy'] == 1.0 and measures['test_images'] == 40
  page = (tmp_path / 'out/predictions.html').read_text(encoding='utf-8')
  assert 'labelled by the embeddings train + val + test' in page


def test_embeddings_meet_the_objects_of_an_export(tmp_path, foreign):
  place = export(tmp_path, [row(n, i) for i, n in enumerate(OBJECTS)][:5])
  found = run_files(tmp_path, foreign, export=str(place))
  assert predicted(tmp_path).keys() == OBJECTS.keys() - {'doubt'}
  assert updates(tmp_path)[1].keys() == {'new_dark', 'new_light', 'machine'}
  assert json.loads((tmp_path / 'out/ecotaxa_scores.json').read_text())
  few = ['new_light', 'S 1/A%2F0/new_dark', 'strange']
  np.savez(
    tmp_path / 'few.npz',
    embedding=shades.embed(shades.grey(215, 33, 1)),
    id=np.array(few),
  )
  found = run_files(tmp_path, foreign, 'few.npz', export=str(place))
  lines = predicted(tmp_path)
  assert {name: line['class'] for name, line in lines.items()} == {
    'new_dark': 'dark',
    'new_light': 'light',
  }
  assert '5 read = 2 predicted + 3 left out' in found.shown[0].footer
  assert (
    'S 1/A%2F0/machine\tnot in few.npz'
    in (tmp_path / 'out/skipped.txt').read_text()
  )


def test_embeddings_that_do_not_fit_are_one_line(tmp_path, foreign):
  with pytest.raises(InputError, match='images are embedded by an encoder'):
    run_analysis(
      predict, [foreign], tmp_path, asked=predict.Asked(images='folder')
    )
  place = str(export(tmp_path))
  for ids, told in (
    (['a', 'b'], 'none of its ids, such as a, is an object of'),
    (['new_dark'] * 2, 'the id new_dark is there twice'),
  ):
    np.savez(tmp_path / 'x.npz', embedding=np.eye(2), id=np.array(ids))
    with pytest.raises(InputError, match=told):
      run_files(tmp_path, foreign, 'x.npz', export=place)
  np.savez(tmp_path / 'x.npz', embedding=np.eye(3))
  with pytest.raises(
    InputError, match=r'labelled images, new images have \[2, 3\] dim'
  ):
    run_files(tmp_path, foreign, 'x.npz')
  np.savez(tmp_path / 'x.npz', embedding=np.zeros((0, 2)))
  with pytest.raises(InputError, match='no rows to predict'):
    run_files(tmp_path, foreign, 'x.npz')
  del foreign.splits['train']
  with pytest.raises(InputError, match='no labelled train images'):
    run_files(tmp_path, foreign)


def test_an_export_is_embedded_with_its_labels_and_measures(tmp_path):
  encoder = shades.Encoder()
  columns = (*COLUMNS, 'object_area')
  rows = [
    row(name, n, object_area=10 * n) for n, name in enumerate(sorted(OBJECTS))
  ]
  place = export(tmp_path, rows, columns)
  embed.embed_folder(encoder, str(place), tmp_path / 'x.npz')
  found = inputs.read_embeddings(tmp_path / 'x.npz')
  names = [id.rpartition('/')[2] for id in found.id.tolist()]
  assert sorted(names) == sorted(OBJECTS) and found.class_names == ('light',)
  assert {n for n, c in zip(names, found.label, strict=True) if c == 0} == {
    'wrong'
  }
  levels = [OBJECTS[name][0] for name in names]
  np.testing.assert_array_equal(
    found.embedding, shades.embed(shades.grey(*levels))
  )
  with np.load(tmp_path / 'x.npz', allow_pickle=False) as arrays:
    wanted = [10.0 * sorted(OBJECTS).index(name) for name in names]
    assert arrays['object_area'].tolist() == wanted
  folder = packing.tree(tmp_path / 'images', {'a/1.png': picture(30)})
  embed.embed_folder(encoder, str(folder), tmp_path / 'y.npz')
  assert inputs.read_embeddings(tmp_path / 'y.npz').class_names == ('a',)
  with pytest.raises(InputError, match=r'--images: .*none is not a folder'):
    embed.embed_folder(encoder, str(tmp_path / 'none'), tmp_path / 'y.npz')


def test_pictures_are_cropped_and_scaled_as_the_encoder_sees_them(tmp_path):
  encoder = shades.Encoder()
  encoder.config['data'] |= {'crop': (0, 0, 2, 0), 'white': 4095}
  deep = np.full((6, 9), 4095, np.uint16)
  deep[4:] = 0  # a scale bar
  path = tmp_path / 'new/deep.png'
  path.parent.mkdir()
  Image.fromarray(deep).save(path)
  place = str(path.parent)
  for found in (
    new_images.gather(encoder, place, None),
    new_images.gather(encoder, None, place),
  ):
    np.testing.assert_array_equal(
      found.picture('deep.png'), np.full((4, 9), 255)
    )
    np.testing.assert_array_equal(
      found.rows.embedding, shades.embed(shades.grey(255))
    )
  # Without a white in the config it is that of all images, not of each.
  encoder.config['data'] |= {'white': 0}
  Image.fromarray(deep // 4).save(path.parent / 'dim.png')
  found = new_images.gather(encoder, place, None)
  np.testing.assert_array_equal(found.picture('dim.png'), np.full((4, 9), 64))
