"""The review's answers, as a browser gets them."""

import concurrent.futures
import csv
import json
import time

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from analysis.files import checks, inputs
from analysis.files.new_images import NewImages
from analysis.files.taxa import Taxa, Taxon
from analysis.review import outcome, refit, server, thumbnails
from plankton_jax.errors import InputError
from tests import review_images

flask = pytest.importorskip('flask', reason='flask is not installed')
TOKEN = 'a-token_of-letters'


@pytest.fixture
def review(tmp_path):
  made = review_images.session(tmp_path)
  yield made
  made._log.close()


@pytest.fixture
def client(review, tmp_path):
  app = server.make_app(review, TOKEN, tmp_path / 'out')
  return app.test_client()


def get(client, path, **options):
  return client.get(
    f'/{TOKEN}/{path}', base_url='http://127.0.0.1:8000', **options
  )


def post(client, path, body):
  return client.post(
    f'/{TOKEN}/api/{path}', json=body, base_url='http://127.0.0.1:8000'
  )


def take(client, rows, name, *, who='Ann', odd=(), seen=0):
  body = {'who': who, 'seen': seen, 'kind': 'take', 'rows': list(rows)}
  return post(client, 'decide', body | {'name': name, 'odd': list(odd)})


def situation(client):
  """Reads the binary answer as the page does."""
  data = get(client, 'api/state').data
  size = int(np.frombuffer(data, '<u4', 1)[0])
  assert size % 4 == 0
  about = json.loads(data[4 : 4 + size])
  at = 4 + size
  label = np.frombuffer(data, '<i2', 12, at)
  first = np.frombuffer(data, '<i2', 12, at + 24)
  confidence = np.frombuffer(data, np.uint8, 12, at + 48)
  assert len(data) == at + 60
  return about, label, first, confidence


@pytest.mark.parametrize(
  'path',
  ['/', '/api/state', '/x/', '/x/api/state', f'/{TOKEN}x/', f'//{TOKEN}/'],
)  # fmt: skip
def test_without_the_token_nothing_is_said(client, path):
  for method in (client.get, client.post):
    answer = method(path, base_url='http://127.0.0.1:8000')
    assert (
      answer.status_code in (403, 308) and TOKEN.encode() not in answer.data
    )
  assert client.get(path, base_url='http://127.0.0.1:8000').status_code == 403


def test_another_hosts_name_is_refused(client):
  for host in ('evil.example', 'evil.example:8000', '127.0.0.1.evil.example'):
    answer = client.get(f'/{TOKEN}/', base_url=f'http://{host}')
    assert answer.status_code == 403
  for host in ('localhost:8000', '127.0.0.1', 'localhost'):
    answer = client.get(f'/{TOKEN}/', base_url=f'http://{host}')
    assert answer.status_code == 200


def test_the_page_loads_only_its_own_files(client):
  page = get(client, '')
  policy = page.headers['Content-Security-Policy']
  assert "default-src 'none'" in policy and 'unsafe' not in policy
  for name in ('review.css', 'tiles.js', 'review.js'):
    assert f'"{name}"' in page.text
    answer = get(client, name)
    assert answer.status_code == 200 and 'http' not in answer.text
  assert get(client, 'server.py').status_code == 404
  assert get(client, '..%2fserver.py').status_code == 404


def test_a_decision_is_kept_and_every_prediction_follows(client, review):
  about, label, first, _ = situation(client)
  assert about['seq'] == 0 and set(label.tolist()) == {-1}
  assert about['classes'] == ['ant', 'bee'] and about['names'] == []
  answer = take(client, [2, 5], 'cat', odd=[0])
  assert answer.json == {'seq': 1, 'kind': 'take', 'rows': 2, 'left': 0}
  about, label, first, confidence = situation(client)
  assert about['names'] == ['cat'] and about['decisions'] == 1
  assert np.flatnonzero(label == 0).tolist() == [2, 5]
  assert [about['classes'][i] for i in first[[0, 1, 8]]] == [
    'ant',
    'bee',
    'cat',
  ]
  sure = review.fitted().predicted.confidence
  np.testing.assert_allclose(confidence / 255, sure, atol=0.002)
  assert get(client, 'api/seq').json == {'seq': 1}
  assert post(client, 'undo', {'who': 'Ann'}).json['rows'] == 2
  assert set(situation(client)[1].tolist()) == {-1}
  assert post(client, 'redo', {'who': 'Ann'}).json['rows'] == 2
  assert np.flatnonzero(situation(client)[1] == 0).tolist() == [2, 5]


def test_lists_and_pictures(client, review):
  take(client, [2], 'cat')
  found = get(client, 'api/sets').json
  assert found['decided'] == [{'name': 'cat', 'images': 1}]
  kinds = {(one['kind'], one['name']) for one in found['sets']}
  assert ('class', 'bee') in kinds and ('group', 'ant') in kinds
  answer = get(client, 'api/view/group?of=1')
  rows = np.frombuffer(answer.data, '<i4')
  view = review.view('group', '1')
  assert rows.tolist() == view.rows.tolist()
  about = json.loads(answer.headers['X-View'])
  names = ['bee', 'ant', 'cat']  # the likeliest first
  assert about == {'line': 4, 'name': 'bee', 'names': names}
  like = np.frombuffer(post(client, 'like', {'rows': [5, 8]}).data, '<i4')
  assert like.tolist()[:3] == [5, 8, 11]
  unsure = np.frombuffer(get(client, 'api/view/unsure').data, '<i4')
  assert sorted(unsure.tolist()) == [i for i in range(12) if i != 2]
  near = get(client, 'api/about/0').json
  assert near == {'id': '000000.png', 'nearest': near['nearest']}
  assert near['nearest'][0] == 'ant' and len(near['nearest']) == 3
  data = get(client, 'api/thumbs?rows=4,0,11').data
  sizes = np.frombuffer(data, '<u4', 3)
  start = 12
  for row, size in zip((4, 0, 11), sizes, strict=True):
    picture = data[start : start + size]
    assert picture == review.images.thumbnails.of(row)
    start += size
  assert start == len(data)


@pytest.mark.parametrize(
  'path',
  ['thumbs', 'thumbs?rows=12', 'thumbs?rows=-1', 'thumbs?rows=' + '1,' * 300,
   'view/class?of=dog', 'view/group?of=x', 'view/nothing', 'about/12'],
)  # fmt: skip
def test_bad_questions_are_answered_in_a_line(client, path):
  answer = get(client, f'api/{path}')
  assert answer.status_code == 400
  assert '\n' not in answer.json['error']


def test_bad_decisions_are_answered_in_a_line(client):
  assert take(client, [0], '').json['error'].startswith('name: give a name')
  assert take(client, [0], 'ant', who=None).status_code == 400
  assert take(client, [0], 'ant', seen='x').status_code == 400
  assert post(client, 'decide', ['take']).status_code == 400
  assert post(client, 'like', {'rows': []}).status_code == 400
  assert get(client, 'api/seq').json == {'seq': 0}


def test_tables_say_what_is_validated_and_what_predicted(client, tmp_path):
  take(client, [2, 5], 'cat', who='Ann')
  take(client, [0], 'unknown', who='Bob')
  answer = post(client, 'write', {'classes': False}).json
  out = tmp_path / 'out'
  assert sorted(answer['written']) == sorted(p.name for p in out.iterdir())
  lines = list(csv.DictReader((out / 'review.csv').read_text().splitlines()))
  assert [line['id'] for line in lines] == [f'{i:06}.png' for i in range(12)]
  shown = [(o['class'], o['status'], o['who']) for o in lines[:4]]
  assert shown == [
    ('unknown', 'validated', 'Bob'),
    ('bee', 'predicted', ''),
    ('cat', 'validated', 'Ann'),
    ('ant', 'predicted', ''),
  ]
  table = pyarrow.parquet.read_table(out / 'review.parquet')
  assert table.column('class').to_pylist() == [o['class'] for o in lines]
  text = (out / 'ecotaxa_review.tsv').read_text('utf-8-sig')
  head, _, *rows = csv.reader(text.splitlines(), delimiter='\t')
  first, third = (dict(zip(head, rows[i], strict=True)) for i in (0, 2))
  assert first['object_annotation_category'] == ''
  assert first['object_annotation_status'] == ''
  assert third['object_annotation_category'] == 'cat'
  assert third['object_annotation_status'] == 'validated'
  when = lines[2]['when']
  decided = [third[f'object_annotation_{field}'] for field in
             ('person_name', 'date', 'time')]  # fmt: skip
  assert decided == ['Ann', *when.split('.')[0].split('T')]
  second = dict(zip(head, rows[1], strict=True))
  assert second['object_annotation_status'] == 'predicted'
  assert second['object_annotation_person_name'] == ''
  text = (out / 'occurrences.csv').read_text()
  found = {o['occurrenceID']: o for o in csv.DictReader(text.splitlines())}
  assert sorted(found) == [o['id'] for o in lines if o['class'] != 'unknown']
  by_hand, by_machine = found['000002.png'], found['000001.png']
  fields = (
    'scientificName', 'identificationVerificationStatus', 'identifiedBy',
    'dateIdentified', 'identificationReferences', 'catalogNumber',
  )  # fmt: skip
  assert [by_hand[field] for field in fields] == [
    'cat', 'ValidatedByHuman', 'Ann', when, '', '000002',
  ]  # fmt: skip
  assert [by_machine[field] for field in fields] == [
    'bee', 'PredictedByMachine', '', '', 'plankton_jax 1.0, a run step 9',
    '000001',
  ]  # fmt: skip
  sure = float(lines[1]['confidence'])
  assert by_machine['identificationRemarks'] == f'probability {sure:.4f}'
  assert any('without eventDate' in note for note in answer['notes'])
  counts = {
    o['class']: (o['validated'], o['predicted'])
    for o in csv.DictReader((out / 'counts.csv').read_text().splitlines())
  }
  assert counts == {
    'ant': ('0', '3'), 'bee': ('0', '4'), 'cat': ('2', '2'),
    'unknown': ('1', '0'),
  }  # fmt: skip


def test_a_class_called_unknown_is_another_than_the_key(tmp_path):
  images = review_images.make()
  known = images.known._replace(names=('Unknown', 'Not_living'))
  review = review_images.session(tmp_path, images._replace(known=known))
  client = server.make_app(review, TOKEN, tmp_path / 'out').test_client()
  keys = get(client, 'api/start').json['special']
  assert keys == {'u': 'unknown (no class)', 'a': 'artefact', 'l': 'Not_living'}
  take(client, [0], keys['u'])
  for row, name in ((3, ' unknown  '), (1, 'not-living'), (2, 'ARTEFACT')):
    take(client, [row], name, seen=9)
  post(client, 'write', {'classes': True})
  out = tmp_path / 'out'
  lines = list(csv.DictReader((out / 'review.csv').read_text().splitlines()))
  assert [line['class'] for line in lines[:4]] == [
    'unknown (no class)', 'Not_living', 'artefact', 'Unknown',
  ]  # fmt: skip
  found = refit.means(known, images.white, review.state())
  assert found.names[2:] == ('unknown (no class)', 'artefact')
  assert found.present.tolist() == [True, True, False, True]
  wanted = (9 * known.means[0] + images.white[3]) / 10
  np.testing.assert_allclose(found.means[0], wanted, rtol=1e-6)
  text = (out / 'ecotaxa_review.tsv').read_text('utf-8-sig')
  taxa = [row.split('\t')[2:4] for row in text.splitlines()[2:6]]
  assert taxa == [
    ['', ''], ['Not_living', 'validated'], ['artefact', 'validated'],
    ['Unknown', 'validated'],
  ]  # fmt: skip
  assert not (out / 'occurrences.csv').exists()  # none of these is a taxon
  folders = sorted(path.name for path in (out / 'classes').iterdir())
  assert folders == ['Not_living', 'Unknown', 'artefact']
  review._log.close()


def test_ecotaxas_calls_validate_what_was_decided_and_score_the_rest(tmp_path):
  images = review_images.make()
  items = tuple(
    item._replace(number=str(700 + i)) for i, item in enumerate(images.items)
  )
  numbers = {'ant': Taxon(('living', 'ant'), 45), 'bee': Taxon((), 46)}
  images = images._replace(items=items, taxa=Taxa(numbers))
  review = review_images.session(tmp_path, images)
  client = server.make_app(review, TOKEN, tmp_path / 'out').test_client()
  assert get(client, 'api/start').json['lineages'] == {
    'living': 'living', 'ant': 'living > ant',
  }  # fmt: skip
  take(client, [0, 3], 'bee')
  take(client, [6], 'unknown', seen=9)
  take(client, [2], 'cat', seen=9)  # a taxon without a number
  notes = post(client, 'write', {}).json['notes']
  call = json.loads((tmp_path / 'out/ecotaxa_validated.json').read_text())
  assert call == {
    'target_ids': [700, 703], 'classifications': [46, 46],
    'wanted_qualification': 'V',
  }  # fmt: skip
  assert any(
    n.startswith('1 objects are not in ecotaxa_validated.json') for n in notes
  )
  call = json.loads((tmp_path / 'out/ecotaxa_scores.json').read_text())
  predicted = review.fitted().predicted
  rest = [
    i
    for i in (1, 4, 5, 7, 8, 9, 10, 11)
    if predicted.names[predicted.first[i]] != 'cat'
  ]
  assert call['target_ids'] == [700 + i for i in rest] and len(rest) > 3
  for i, ids, scores in zip(
    rest, call['classifications'], call['scores'], strict=True
  ):
    first = {'ant': 45, 'bee': 46}[predicted.names[predicted.first[i]]]
    assert ids[0] == first and sorted(ids) == [45, 46]
    assert scores[0] == pytest.approx(float(predicted.confidence[i]))
  review._log.close()


def test_a_draw_is_checked_in_its_order_and_counts_read_it(tmp_path):
  draw = np.array([7, 2, 11, 0])
  images = review_images.make()._replace(drawn=draw)
  review = review_images.session(tmp_path, images)
  client = server.make_app(review, TOKEN, tmp_path / 'out').test_client()
  assert get(client, 'api/start').json['drawn'] is True
  take(client, [2, 5], 'cat')  # of which 5 is not in the draw
  take(client, [0], 'bee', seen=9)
  answer = get(client, 'api/view/drawn')
  assert np.frombuffer(answer.data, '<i4').tolist() == [7, 11]
  assert json.loads(answer.headers['X-View'])['line'] == 0
  answer = post(client, 'write', {}).json
  assert 'Give checked.csv to analysis.counts as --checked.' in answer['notes']
  path = tmp_path / 'out' / 'checked.csv'
  lines = list(csv.DictReader(path.read_text().splitlines()))
  assert [line['id'] for line in lines] == [images.ids[i] for i in draw]
  rows = inputs.Embeddings(
    images.embedding, np.full(12, -1), np.array(images.ids), ()
  )
  found, notes = checks.read(path, NewImages('', rows, images.items, ()))
  assert found == {2: 'cat', 0: 'bee'}
  assert '2 of 4 rows have no class' in notes[0]
  review._log.close()


def test_without_a_draw_there_is_none_to_list_or_write(client, tmp_path):
  assert get(client, 'api/start').json['drawn'] is False
  assert get(client, 'api/view/drawn').status_code == 400
  post(client, 'write', {})
  assert not (tmp_path / 'out' / 'checked.csv').exists()


def test_what_no_longer_is_so_is_removed(client, tmp_path, monkeypatch):
  post(client, 'write', {'classes': False})
  out = tmp_path / 'out'
  rest = {path.name for path in out.iterdir()}
  take(client, range(12), 'artefact')  # which is no occurrence

  def refuse(path, rows):
    raise InputError('a name is too long')

  monkeypatch.setattr(outcome.ecotaxa, 'encode', refuse)
  answer = post(client, 'write', {'classes': False}).json
  assert 'No table for EcoTaxa: a name is too long' in answer['notes']
  rest -= {'occurrences.csv', 'ecotaxa_review.tsv'}
  assert {path.name for path in out.iterdir()} == rest


def test_tables_are_written_by_one_browser_at_a_time(client, monkeypatch):
  writing, met = [], []

  def write(found, out):
    writing.append(out)
    met.append(len(writing))
    time.sleep(0.1)
    writing.pop()

  monkeypatch.setattr(outcome.result, 'write', write)
  ask = lambda _: post(client.application.test_client(), 'write', {})
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    answers = list(pool.map(ask, range(2)))
  assert [answer.status_code for answer in answers] == [200, 200]
  assert met == [1, 1]


def test_class_folders_hold_what_is_validated_now(client, tmp_path):
  assert post(client, 'write', {'classes': True}).status_code == 400
  take(client, [2, 5], 'a/cat')
  take(client, [0], 'unknown')
  post(client, 'write', {'classes': True})
  folder = tmp_path / 'out' / 'classes'
  files = sorted(
    p.relative_to(folder).as_posix() for p in folder.rglob('*.png')
  )
  assert len(files) == 2 and all(name.startswith('a/cat/') for name in files)
  with Image.open(folder / files[0]) as picture:
    assert picture.size == (24, 16) and picture.getpixel((0, 0)) == 90
  take(client, [2, 5], 'dog', seen=9)
  post(client, 'write', {'classes': True})
  assert sorted(p.name for p in folder.iterdir()) == ['dog']
  for seen, name in ((9, '../up'), (19, 'a\\b')):
    take(client, [1], name, seen=seen)
    answer = post(client, 'write', {'classes': True})
    assert answer.status_code == 400 and 'cannot name a folder' in answer.text
  assert sorted(p.name for p in folder.iterdir()) == ['dog']


def test_thumbnails_are_made_once(tmp_path):
  asked = []

  def read(key):
    asked.append(key)
    if key == 'bad':
      raise InputError('bad: unreadable')
    return np.full((40, 80), int(key), np.uint8)

  ids = ['10', 'bad', '250']
  for _ in range(2):
    found = thumbnails.collect(tmp_path, ids, read)
    for row, level in enumerate((10, 200, 250)):
      path = tmp_path / 'one.jpg'
      path.write_bytes(found.of(row))
      with Image.open(path) as picture:
        assert abs(np.asarray(picture).mean() - level) < 3
        assert max(picture.size) == 96
  assert sorted(asked) == sorted(ids)
  thumbnails.collect(tmp_path, ['10'], read)
  assert asked.count('10') == 2
