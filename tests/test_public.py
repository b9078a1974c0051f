"""Public sets from small archives of the same layout."""

import functools
import gzip
import http.server
import json
import sys
import threading

import numpy as np
import packing
import pytest
import tensorflow_datasets as tfds

from configs import arcface, base, triplet
from plankton_jax.data import records
from plankton_jax.data.pixels import images
from plankton_jax.data.public import __main__ as command
from plankton_jax.data.public import catalogue, download, prepare
from plankton_jax.errors import InputError
from plankton_jax.train import loop

CLASSES = ('Acantharia', 'copepod eggs', 'ж')


def files(layout, per_class=4, classes=CLASSES):
  """{path: bytes} of a set's images; a picture's seed is its number."""
  found = {}
  for number in range(per_class * len(classes)):
    place = layout.replace('{class}', classes[number % len(classes)])
    place = place.replace('{file}', f'{number:03}.png').replace(
      '{year}', '2006'
    )
    found[place] = packing.picture(number)
  return found


def get(name, *archives, data_dir):
  command.run(
    name,
    archives=[str(path) for path in archives],
    get=False,
    yes=False,
    data_dir=str(data_dir),
  )
  return records.Records(records.prepared(name, str(data_dir)))


@pytest.mark.parametrize('name', catalogue.SETS)
def test_every_set_from_its_layout(tmp_path, name, capsys):
  about = catalogue.SETS[name]
  content = files(about.layout)
  content |= {
    'notes.txt': b'clutter',
    about.layout.replace('{class}', 'ж').replace('{file}', '._000.png'): b'x',
    about.layout.replace('{class}', 'ж').replace('{file}', '.DS_Store'): b'x',
    f'__MACOSX/{next(iter(content))}': b'x',
  }
  path = tmp_path / 'local.zip'
  if '.zip' in about.url:
    packing.pack_zip(path, content)
  else:
    mode = 'w:gz' if about.url.endswith('.gz') else 'w'
    path = packing.tar(tmp_path / 'local.tar', content, mode)
  opened = get(name, path, data_dir=tmp_path / 'tfds')
  said = capsys.readouterr().out
  assert about.licence in said and f'https://doi.org/{about.doi}' in said
  assert '12 images in 3 classes' in said and 'left out' not in said
  rows = {opened[row].id: opened[row] for row in range(len(opened))}
  assert len(rows) == 12
  for number in range(12):
    key = f'{CLASSES[number % 3]}/{number:03}.png'
    assert rows[key].label == sorted(CLASSES).index(CLASSES[number % 3])
    assert rows[key].image == packing.picture(number)
  info = records.prepared(name, str(tmp_path / 'tfds')).info
  assert info.citation == about.citation and about.doi in info.homepage
  assert not list((tmp_path / 'tfds').rglob('*downloads*'))


def test_taxa_reach_records_and_class_list(tmp_path, capsys):
  content = files('FlowCamNet/imgs/{class}/{file}')
  listed = [
    (f'{n:03}', f'taxon {n % 3}', f'living/x/taxon {n % 3}', 'val')
    for n in range(12)
    if n != 5
  ]
  content['FlowCamNet/taxa.csv.gz'] = packing.taxa(listed)  # after the images
  path = packing.tar(tmp_path / 'a.tar', content)
  get('flowcamnet', path, data_dir=tmp_path)
  final = prepare.prepared_at('flowcamnet', str(tmp_path))
  assert prepare.classes(final)[1] == {
    'class': 'copepod eggs',
    'images': '4',
    'taxon': 'taxon 1',
    'lineage': 'living/x/taxon 1',
  }
  line = next(s for s in capsys.readouterr().out.splitlines() if 'eggs' in s)
  assert line.split() == ['copepod', 'eggs', '4', 'living/x/taxon', '1']
  source = tfds.data_source('flowcamnet', split='images', data_dir=tmp_path)
  rows = {row['id'].decode(): row for row in source}
  assert rows['ж/002.png']['taxon'] == b'taxon 2'
  assert rows['ж/002.png']['set'] == b'val'
  assert rows['ж/005.png']['lineage'] == b''
  np.testing.assert_array_equal(
    rows['ж/002.png']['image'][..., 0], images.decode(packing.picture(2))
  )


def test_all_that_is_left_out_is_named(tmp_path, capsys, monkeypatch):
  content = files('imgs/{class}/{file}')
  links = [('imgs/ж/link.png', '/etc/passwd')]
  content |= {
    '../evil.png': packing.picture(0),
    'imgs/ж/bomb.png': packing.bomb(),
    'imgs/ж/text.png': b'station, depth',
    'imgs/loose.png': packing.picture(1),
    'imgs/other.png': packing.picture(1),
  }
  path = packing.tar(tmp_path / 'a.tar', content, links=links)
  monkeypatch.chdir(tmp_path)
  opened = get('uvp6net', path, data_dir='tfds')
  assert len(opened) == 12
  said = capsys.readouterr().out
  expected = {
    'imgs/ж/link.png': 'a link',
    '../evil.png': 'a path that leads out of the archive',
    'ж/bomb.png': 'more than 67 million pixels',
    'ж/text.png': 'not a PNG, JPEG, TIFF, BMP, GIF or WebP image',
    'imgs/loose.png (and 1 more)': 'does not lie as imgs/{class}/{file}',
  }
  final = prepare.prepared_at('uvp6net', 'tfds')
  assert dict(records.skipped(final)) == expected
  for name, reason in expected.items():
    assert f'  {name}: {reason}\n' in said
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.tar', 'tfds']
  assert not (tmp_path.parent / 'evil.png').exists()


def test_yearly_archives_are_joined_without_doubles(tmp_path):
  years = []
  for year in (2006, 2007):
    own = {f'{year}/ж/{year}_{n}.png': packing.picture(n) for n in range(3)}
    content = {**own, f'{year}/ж/same.png': packing.picture(year)}
    years.append(packing.pack_zip(tmp_path / f'{year}.zip', content))
  with pytest.raises(InputError, match='whoi cannot be downloaded: get its'):
    command.run('whoi', archives=[], get=True, yes=True, data_dir=str(tmp_path))
  opened = get('whoi', years[0], data_dir=tmp_path / 'one')
  assert len(opened) == 4
  opened = get('whoi', *years, data_dir=tmp_path / 'both')
  assert len(opened) == 7
  same = [opened[row] for row in range(7) if 'same' in opened[row].id]
  assert [record.image for record in same] == [packing.picture(2006)]
  final = prepare.prepared_at('whoi', str(tmp_path / 'both'))
  assert records.skipped(final) == [
    ('2007/ж/same.png', 'a second image ж/same.png')
  ]


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'a/b/c.png': b'x'}, r'holds no image as FlowCamNet/imgs/.*such as a/b/c'),
    ({}, 'and is empty'),
    ({'FlowCamNet/imgs/a/b.png': b'x'}, 'none of the 1 images in .* can be'),
    (
      {'FlowCamNet/imgs/a/b.png': b'x', 'FlowCamNet/taxa.csv.gz': b'x'},
      'taxa.csv.gz cannot be read',
    ),
  ],
)
def test_useless_archives_leave_nothing(tmp_path, content, message):
  path = packing.tar(tmp_path / 'a.tar', content)
  with pytest.raises(InputError, match=message) as caught:
    get('flowcamnet', path, data_dir=tmp_path / 'tfds')
  assert '\n' not in str(caught.value)
  assert not list((tmp_path / 'tfds').rglob('*.*'))


def test_a_name_that_an_archive_has_twice_counts_once(tmp_path):
  import tarfile

  path = packing.tar(tmp_path / 'a.tar', files('imgs/{class}/{file}'))
  packing.tar(path, {'imgs/ж/002.png': packing.picture(99)}, 'a')
  with tarfile.open(path) as archive:
    assert archive.getnames().count('imgs/ж/002.png') == 2
  opened = get('uvp6net', path, data_dir=tmp_path)
  rows = {opened[row].id: opened[row].image for row in range(len(opened))}
  assert len(opened) == 12 and rows['ж/002.png'] == packing.picture(2)
  assert records.skipped(prepare.prepared_at('uvp6net', str(tmp_path))) == [
    ('ж/002.png', 'a second file of this name in the archive')
  ]


def test_taxa_without_a_column(tmp_path):
  content = files('FlowCamNet/imgs/{class}/{file}')
  content['FlowCamNet/taxa.csv.gz'] = gzip.compress(b'objid,taxon\n1,a\n')
  path = packing.tar(tmp_path / 'a.tar', content)
  with pytest.raises(
    InputError, match=r"no column 'lineage' .it has objid, ta"
  ):
    get('flowcamnet', path, data_dir=tmp_path / 'tfds')


def test_a_damaged_header_of_taxa_is_shown_in_one_line():
  with pytest.raises(InputError, match=r'it has obj\\x0cid, taxon') as error:
    prepare.parse_taxa(gzip.compress(b'obj\x0cid,taxon\n1,a\n'), 'a.tar')
  assert len(str(error.value).splitlines()) == 1


@pytest.fixture
def served(tmp_path, monkeypatch):
  """ZooLake's address leads to a small archive on this machine."""
  folder = tmp_path / 'web'
  folder.mkdir()
  content = files(catalogue.SETS['zoolake'].layout)
  packing.pack_zip(folder / 'data.zip', content)
  handler = functools.partial(
    type('Quiet', (http.server.SimpleHTTPRequestHandler,), {
      'log_message': lambda *args: None
    }),
    directory=str(folder),
  )  # fmt: skip
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  threading.Thread(target=server.serve_forever, args=(0.01,)).start()
  url = f'http://127.0.0.1:{server.server_port}/data.zip'
  about = catalogue.SETS['zoolake']._replace(url=url)
  monkeypatch.setitem(catalogue.SETS, 'zoolake', about)
  monkeypatch.setenv('no_proxy', '*')
  yield folder
  server.shutdown()
  server.server_close()


def test_a_download_is_asked_for_and_kept(
  served, tmp_path, capsys, monkeypatch
):
  def get(**changes):
    command.run(
      'zoolake',
      **{
        'archives': [],
        'get': True,
        'yes': False,
        'data_dir': str(tmp_path / 'tfds'),
        **changes,
      },
    )

  with pytest.raises(InputError, match='give --yes'):
    get()
  monkeypatch.setattr(sys.stdin, 'isatty', lambda: True, raising=False)
  asked = []
  monkeypatch.setattr('builtins.input', lambda text: asked.append(text) or 'no')
  with pytest.raises(InputError, match='not downloaded'):
    get()
  assert asked == ['Download under CC0 1.0? [y/N] ']
  said = capsys.readouterr().out
  assert '0.00 GB, to' in said and 'zoolake.zip' in said
  assert not (tmp_path / 'tfds').exists()
  get(yes=True)
  assert '12 images in 3 classes' in capsys.readouterr().out
  kept = tmp_path / 'tfds/downloads/zoolake.zip'
  assert kept.read_bytes() == (served / 'data.zip').read_bytes()
  assert (tmp_path / 'tfds/downloads/zoolake.zip.sha256').exists()
  monkeypatch.setattr(download, 'fetch', None)
  get()  # Prepared: nothing to get, nothing to ask.
  get(get=False, archives=['/nowhere'])


def test_the_command_in_a_process(tmp_path, python):
  path = packing.tar(
    tmp_path / 'a.tar', files('Planktoscope_reference/imgs/{class}/{file}')
  )
  run = functools.partial(python, '-m', 'plankton_jax.data.public')
  listed = run()
  assert listed.returncode == 0
  assert [s.split()[0] for s in listed.stdout.splitlines()] == [*catalogue.SETS]
  where = f'--data_dir={tmp_path}/tfds'
  before = run('planktoscope', where)
  assert 'not prepared: give --download or --archive=FILE' in before.stdout
  made = run('planktoscope', f'--archive={path}', where)
  assert made.returncode == 0, made.stderr
  assert '--config.data.name=planktoscope' in made.stdout
  cut = tmp_path / 'cut.tar'
  cut.write_bytes(path.read_bytes()[:5000])
  for arguments, message in (
    (('flowcamet',), "no public set 'flowcamet'"),
    (
      ('flowcamnet', f'--archive={cut}', where),
      'cut.tar is cut off or damaged',
    ),
    (('flowcamnet', '--archive=x', '--download'), 'exclude each other'),
  ):
    bad = run(*arguments)
    assert bad.returncode == 2
    assert bad.stderr.startswith('error: ') and message in bad.stderr
    assert bad.stderr.count('\n') == 1


@pytest.mark.parametrize('config_file', [triplet, arcface])
def test_the_published_experiment_runs(
  tmp_path_factory, tmp_path, make_config, config_file
):
  shared = tmp_path_factory.getbasetemp() / 'flowcamnet'
  if not shared.exists():
    shared.mkdir()
    names = (*base.FLOWCAMNET_SEEN, *base.FLOWCAMNET_UNSEEN, 'detritus')
    content = files('FlowCamNet/imgs/{class}/{file}', 10, names)
    content['FlowCamNet/imgs/Retaria/bad.png'] = b'x'
    path = packing.tar(shared / 'a.tar', content)
    get('flowcamnet', path, data_dir=shared)
  config = make_config(
    lambda: config_file.get_config('flowcamnet'),
    data__data_dir=str(shared),
    data__fractions=(0.6, 0.2, 0.2),
    epochs=1,
    validations_per_epoch=1,
  )
  assert loop.train_and_evaluate(config, tmp_path).step == 2
  split = json.loads((tmp_path / 'split.json').read_text())
  assert split['settings']['seen_classes'] == sorted(base.FLOWCAMNET_SEEN)
  sizes = {name: len(ids) for name, ids in split['splits'].items()}
  assert sizes == {'train': 36, 'val': 12, 'test': 12, 'unseen': 30}
  skipped = (tmp_path / 'skipped.txt').read_text()
  assert (
    skipped
    == 'Retaria/bad.png\tnot a PNG, JPEG, TIFF, BMP, GIF or WebP image\n'
  )


def test_a_set_that_is_not_prepared_names_the_command(tmp_path):
  with pytest.raises(
    InputError, match=r'python -m plankton_jax.data.public wh'
  ):
    records.prepared('whoi', str(tmp_path))
