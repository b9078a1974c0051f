"""Starts a review again after its folder has changed."""

import types

import numpy as np
import pytest
from PIL import Image

from analysis.files import folders, inputs, new_images, originals, pile, taxa
from analysis.files.folders import Embedded
from analysis.files.inputs import Source
from analysis.formats import darwin_core
from analysis.measures import groups
from analysis.review import outcome, prepare, store, thumbnails
from analysis.review.session import Session
from analysis.review.store import Store, Stored
from plankton_jax.data.sources import objects
from plankton_jax.data.sources.objects import Object, Objects
from plankton_jax.errors import InputError

BRIGHT, DARK, GREY = 200, 40, 120
SOURCE = Source('plankton', {}, None, None, encoder='an encoder')


def draw(root, shades):
  for name, shade in shades.items():
    path = root / f'{name}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (8, 6), shade).save(path)


@pytest.fixture
def embedded(monkeypatch):
  """Embeds by brightness, and lists what it was asked to embed."""
  asked = []

  def embed(encoder, listed, *, pixel_um, white=0, desc='embed'):
    read = originals.reader_of(listed)
    shades = [read(key).mean() for key in listed.ids]
    if not any(shades):
      raise InputError('no image can be read')
    asked.append((list(listed.ids), pixel_um))
    angle = np.pi / 2 * np.array(shades) / 255
    rows = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    found = inputs.Embeddings(
      rows, listed.labels, np.array(listed.ids), listed.class_names
    )
    return Embedded(listed, found, [], white)

  monkeypatch.setattr(folders, 'encoder', lambda source: None)
  monkeypatch.setattr(folders, 'embed', embed)
  return asked


def begin(root, out, pixel_um=None, **options):
  images = prepare.images(
    SOURCE, splits=[], acceptance=0.95, pixel_um=pixel_um, listed=taxa.NONE,
    out=out, **{'folder_': str(root) if root else None, **options},
  )  # fmt: skip
  log = Store(out / store.FILE, images.ids, images.group)
  return Session(images, log)


def labels(review):
  state = review.state()
  return {
    key: state.names[label]
    for key, label in zip(review.images.ids, state.label, strict=True)
    if label >= 0
  }


def test_images_added_and_removed_leave_every_decision(
  tmp_path, embedded, capsys
):
  root, out = tmp_path / 'haul', tmp_path / 'out'
  draw(root, {f'm{i}': DARK + i for i in range(6)})
  draw(root, {f'n{i}': BRIGHT + i for i in range(6)})
  review = begin(root, out)
  first, group = review.images.ids, review.images.group.tolist()
  assert len(set(group)) == 2 and min(group) == 0
  review.decide('Ann', 'split', 0, {'rows': [0]})  # a group of number 2
  review.decide('Ann', 'take', 9, {'rows': [1, 2], 'name': 'ant', 'odd': [7]})
  review._log.close()
  # Names that sort before, between and after the first ones.
  draw(root, {'a': DARK + 9, 'mm': BRIGHT + 9})
  draw(root, {f'z{i}': GREY + i for i in range(6)})
  (root / 'm1.png').unlink()
  review = begin(root, out)
  assert review.images.ids == [
    *first, 'a.png', 'mm.png', *[f'z{i}.png' for i in range(6)],
  ]  # fmt: skip
  assert [ids for ids, _ in embedded] == [first, review.images.ids[12:]]
  assert labels(review) == {'m1.png': 'ant', 'm2.png': 'ant'}
  state = review.state()
  assert state.refused == {0: {7}}
  assert state.group[0] == 2 and state.group[1:12].tolist() == group[1:]
  assert state.group[12:14].tolist() == [group[0], group[6]]
  assert state.group[14:].tolist() == [3] * 6  # 2 is taken by the split
  said = capsys.readouterr().err
  assert '8 images were added' in said
  assert f'1 images are no longer in {root}' in said
  shades = [review.images.thumbnails.of(i) for i in range(20)]
  assert shades[1] != shades[12] and shades[12] == picture(DARK + 9)
  assert shades[1] == picture(DARK + 1)  # of the file that is gone
  assert len(list(out.glob('thumbnails-*'))) == 2
  lines = outcome.rows(
    review.images, state, review.fitted().predicted, review.events()
  )
  written = outcome.write_classes(out / 'classes', review.images, lines)
  assert written == (1, 1)
  review._log.close()
  # Nothing has changed since: nothing is embedded.
  review = begin(root, out)
  assert len(embedded) == 2 and len(review.images.ids) == 20
  review._log.close()


def test_files_whose_names_become_alike_are_all_written(tmp_path):
  draw(tmp_path, {'a/b': DARK, 'a_b': BRIGHT})
  lines = [
    {'id': name, 'class': 'ant', 'status': outcome.VALIDATED}
    for name in ('a/b.png', 'a_b.png')
  ]
  known = types.SimpleNamespace(names=())
  images = types.SimpleNamespace(
    original=lambda id: (tmp_path / id).read_bytes(), known=known
  )
  assert outcome.write_classes(tmp_path / 'out', images, lines) == (2, 0)
  written = sorted((tmp_path / 'out/ant').iterdir())
  assert len(written) == 2
  assert {originals.read(path).mean() for path in written} == {DARK, BRIGHT}


def picture(shade):
  return thumbnails.encoded(lambda _: np.full((6, 8), shade, np.uint8), '')


def test_what_cannot_be_read_is_said_and_stops_nothing(
  tmp_path, embedded, capsys
):
  root, out = tmp_path / 'haul', tmp_path / 'out'
  draw(root, {f'm{i}': DARK + i for i in range(6)})
  begin(root, out)._log.close()
  draw(root, {'x': 0})
  review = begin(root, out)
  review._log.close()
  assert len(review.images.ids) == 6
  assert 'no image is added: no image can be read' in capsys.readouterr().err


def test_another_folder_is_refused_and_another_pixel_is_embedded(
  tmp_path, embedded
):
  root, out = tmp_path / 'haul', tmp_path / 'out'
  draw(root, {f'm{i}': DARK + i for i in range(6)})
  begin(root, out)._log.close()
  draw(tmp_path / 'other', {f'n{i}': DARK + i for i in range(6)})
  with pytest.raises(InputError, match='decisions on 6 other images'):
    begin(tmp_path / 'other', out)
  begin(root, out, pixel_um=5.0)._log.close()
  assert [pixel for _, pixel in embedded] == [None, 5.0]
  with pytest.raises(InputError, match='--pixel_um is of new images'):
    pile.gather(SOURCE, images=None, splits=['unseen'], pixel_um=5.0)


def test_a_draw_is_all_that_is_embedded_and_may_grow(tmp_path, embedded):
  root, out, check = (tmp_path / name for name in ('haul', 'out', 'check.csv'))
  draw(root, {f's1/m{i}': DARK + 9 * i for i in range(6)})
  check.write_text('sample,id,class\ns1,s1/m4.png,\ns1,s1/m1.png,\n')
  review = begin(root, out, check=check)
  assert review.images.ids == ['s1/m4.png', 's1/m1.png']
  review.decide('Ann', 'take', 0, {'rows': [0], 'name': 'ant'})
  assert review.view('drawn', '').rows.tolist() == [1]
  review._log.close()
  more = ['s1/m0.png', 's1/m4.png', 's1/m1.png', 's1/m2.png']
  check.write_text('\n'.join(['id', *more]))
  review = begin(root, out, check=check)
  assert [ids for ids, _ in embedded] == [[*more[1:3]], [more[0], more[3]]]
  ids = review.images.ids
  assert [ids[row] for row in review.images.drawn] == more
  listed = review.view('drawn', '').rows
  assert [ids[row] for row in listed] == [more[0], *more[2:]]
  review._log.close()
  check.write_text('id\ns1/m4.png\ns2/m4.png\n')
  with pytest.raises(InputError, match=r'1 of its 2 images .* as s2/m4.png'):
    begin(root, out, check=check)
  check.write_text('name\ns1/m4.png\n')
  with pytest.raises(InputError, match='no column id'):
    begin(root, out, check=check)


def test_objects_of_an_export_are_drawn_with_what_it_says(
  tmp_path, embedded, monkeypatch
):
  items = tuple(
    Object(f'o{i}', f'o{i}.png', sample='s', date='20240102') for i in range(4)
  )
  draw(tmp_path, {f'o{i}': DARK + i for i in range(4)})
  files = {x.id: (tmp_path / x.image).read_bytes() for x in items}
  labels = objects.unlabelled(len(items))
  export = Objects(
    'export.zip', tuple(files), files.__getitem__, labels, (), items=items
  )
  monkeypatch.setattr(new_images, 'open_source', lambda path, rank: export)
  check = tmp_path / 'check.csv'
  check.write_text('id\ns//o3\ns//o1\n')
  review = begin(None, tmp_path / 'out', export='export.zip', check=check)
  assert review.images.items == (items[3], items[1])
  shades = [review.images.read(key).mean() for key in review.images.ids]
  assert shades == [DARK + 3, DARK + 1]
  with pytest.raises(InputError, match=r'export.zip, s//o9: no such image'):
    review.images.read('s//o9')
  review._log.close()
  with pytest.raises(InputError, match='exclude each other'):
    begin(tmp_path, tmp_path / 'out', export='export.zip')


def test_new_rows_join_the_group_that_most_of_theirs_are_in():
  before = Stored(['a', 'b', 'c', 'd'], np.array([0, 5, 5, -1]), 7)
  group = np.array([1, 1, 1, 2, 1, 2, 0, 0, -1])
  found = prepare.continued(group, before)
  # With a, b and c; with d, which has none; two of their own; none.
  assert found.tolist() == [0, 5, 5, -1, 5, 9, 8, 8, groups.NONE]
  none = Stored([], np.zeros(0, int), -1)
  assert prepare.continued(group, none).tolist() == group.tolist()


def test_what_a_runs_export_says_of_its_images_is_kept(monkeypatch, capsys):
  item = Object(
    'o1', 'o1.png', taxon='Oithona', lineage='living>Copepoda>Oithona',
    sample='s', acquisition='a', date='20240102', latitude='43.1',
  )  # fmt: skip
  monkeypatch.setattr(taxa, 'objects_of_run', lambda source: [item])
  ids = [item.id, 'x/b.png']
  items, known = prepare._origin(SOURCE, {}, ids)
  assert items == (item, Object('x/b', 'x/b.png'))
  line = darwin_core.occurrence(items[0], ids[0], 'Oithona', known, who='Ann')
  fields = ('eventDate', 'decimalLatitude', 'higherClassification')
  assert [line[field] for field in fields] == [
    '2024-01-02', '43.1', 'living | Copepoda',
  ]  # fmt: skip

  def gone(source):
    raise InputError('no such export')

  monkeypatch.setattr(taxa, 'objects_of_run', gone)
  items, known = prepare._origin(SOURCE, {}, ids)
  assert [one.image for one in items] == ids and not known.of
  assert 'taxa: no such export' in capsys.readouterr().err
