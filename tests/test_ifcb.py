"""Raw IFCB bins of both generations, made here."""

import io

import numpy as np
import packing
import pytest
from PIL import Image
from test_ecotaxa import row as ecotaxa_row
from test_ecotaxa import tsv
from test_pipeline import loader

from plankton_jax.data import select
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import flowcam, ifcb, objects
from plankton_jax.errors import InputError

OLD, NEW = 'IFCB5_2012_028_081515', 'D20130526T095207_IFCB013'
FIRST = {OLD: 9, NEW: 13}  # column of x in the .adc


def make(folder, name, regions, lead=0, cut=0, suffix=str.lower):
  """Writes a bin of (trigger, x, y, pixels [H, W]); returns its regions."""
  lines, data = [], b'\0' * lead
  for trigger, x, y, pixels in regions:
    height, width = pixels.shape
    box = (x, y, width, height, len(data))
    before = ['.5'] * (FIRST[name] - 1)
    lines.append(','.join(map(str, (trigger, *before, *box, '-.25', ''))))
    data += pixels.tobytes()
  folder.mkdir(parents=True, exist_ok=True)
  stem = str(folder / name)
  with open(stem + suffix('.adc'), 'w', newline='') as file:
    file.write(''.join(f'{line}\r\n' for line in lines))
  with open(stem + suffix('.roi'), 'wb') as file:
    file.write(data[: len(data) - cut])
  with open(stem + suffix('.hdr'), 'w') as file:
    file.write('imagerID: 13\n')
  return folder


def pixels(seed, shape):
  return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def images(found):
  return {
    id: np.asarray(Image.open(io.BytesIO(found.read(id)))) for id in found.ids
  }


EMPTY = np.zeros((0, 0), np.uint8)


@pytest.mark.parametrize('name', [OLD, NEW])
@pytest.mark.parametrize('suffix', [str.lower, str.upper])
def test_regions_are_read_in_place(tmp_path, name, suffix):
  regions = [
    (1, 10, 20, pixels(0, (5, 9))),
    (2, -11, -11, EMPTY),
    (3, 700, 3, pixels(1, (12, 4))),
  ]
  make(tmp_path / '2012/x', name, regions, lead=1, suffix=suffix)
  found = ifcb.objects(str(tmp_path))
  assert found.ids == (f'{name}_00001', f'{name}_00003')
  read = images(found)
  np.testing.assert_array_equal(read[f'{name}_00001'], regions[0][3])
  np.testing.assert_array_equal(read[f'{name}_00003'], regions[2][3])
  assert found.left_aside == {ifcb.EMPTY: 1} and not found.skipped
  assert objects.to_source(found, '').read == 3
  one = ifcb.objects(str(tmp_path / f'2012/x/{name}{suffix(".hdr")}'))
  assert one.ids == found.ids


def overlapping(trigger=4):
  """Two regions of one 14 x 20 scene, and the scene."""
  scene = pixels(5, (14, 20))
  return scene, [
    (4, 100, 50, scene[:10, :12].copy()),
    (trigger, 107, 53, scene[3:14, 7:].copy()),
    (5, 107, 53, pixels(6, (11, 13))),
  ]


def test_old_bins_are_stitched(tmp_path):
  scene, regions = overlapping()
  found = ifcb.objects(str(make(tmp_path, OLD, regions)))
  assert found.ids == (f'{OLD}_00001', f'{OLD}_00003')
  assert (
    found.left_aside == {ifcb.STITCHED: 1}
    and objects.to_source(found, '').read == 3
  )
  stitched = images(found)[f'{OLD}_00001']
  assert stitched.shape == scene.shape
  known = np.zeros(scene.shape, bool)
  known[:10, :12] = known[3:, 7:] = True
  np.testing.assert_array_equal(stitched[known], scene[known])
  # By loops: the mean of known pixels beside unknown ones.
  beside = set()
  for y, x in np.argwhere(~known):
    for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
      if 0 <= v < 14 and 0 <= u < 20 and known[v, u]:
        beside.add((v, u))
  mean = round(float(np.mean([scene[place] for place in beside])))
  assert (stitched[~known] == mean).all()


@pytest.mark.parametrize(
  ('name', 'trigger', 'shift'), [(NEW, 4, 0), (OLD, 3, 0), (OLD, 4, 3)]
)
def test_what_is_not_stitched(tmp_path, name, trigger, shift):
  """New bins, other triggers, and regions that share two columns alone."""
  _, regions = overlapping(trigger)
  _, x, y, second = regions[1]
  regions[1] = (trigger, x + shift, y, second)
  found = ifcb.objects(str(make(tmp_path, name, regions)))
  assert len(found.ids) == 3 and not found.left_aside
  for (_, _, _, given), read in zip(
    regions, images(found).values(), strict=True
  ):
    np.testing.assert_array_equal(read, given)


def test_an_empty_region_between_them_does_not_part_a_pair(tmp_path):
  _, regions = overlapping()
  regions.insert(1, (4, 0, 0, EMPTY))
  found = ifcb.objects(str(make(tmp_path, OLD, regions)))
  assert found.ids == (f'{OLD}_00001', f'{OLD}_00004')
  assert objects.to_source(found, '').read == 4


def test_empty_damaged_and_missing_files(tmp_path):
  make(tmp_path / 'a', NEW, [])
  make(tmp_path / 'b', OLD, [(1, 0, 0, pixels(0, (4, 5)))] * 2, cut=3)
  with open(tmp_path / f'b/{OLD}.adc', 'a') as file:
    file.write('rubbish,1,2\n' + '1,' * 9 + '0,0,-4,5,0\n')
  (tmp_path / 'D20200101T000000_IFCB1.roi').write_bytes(b'')
  found = ifcb.objects(str(tmp_path))
  assert len(found.ids) == 1 and found.left_aside == {ifcb.STITCHED: 1}
  assert dict(found.skipped) == {
    f'{OLD}_00003': 'not a line of an .adc',
    f'{OLD}_00004': 'not a line of an .adc',
    'D20200101T000000_IFCB1': '.adc: No such file or directory',
  }
  with pytest.raises(ValueError, match=r'\.roi ends within region 2'):
    found.read(found.ids[0])
  settings = Preprocessing(size=8, resize='pad', channels=1)
  shown = list(objects.decoded(found, settings, desc='test'))
  assert shown == ['.roi ends within region 2']
  (tmp_path / f'b/{OLD}.roi').unlink()
  with pytest.raises(ValueError, match=r'\.roi: No such file'):
    found.read(found.ids[0])
  empty = ifcb.objects(str(tmp_path / 'a'))
  assert not empty.ids and objects.to_source(empty, '').read == 0


@pytest.mark.parametrize('offset', [2**31, 2**80])
def test_a_region_beyond_the_end_of_the_file(tmp_path, offset):
  make(tmp_path, NEW, [(1, 0, 0, pixels(0, (4, 5)))])
  file = tmp_path / f'{NEW}.adc'
  file.write_text(file.read_text().replace(',5,4,0,', f',5,4,{offset},'))
  found = ifcb.objects(str(tmp_path))
  with pytest.raises(ValueError, match=r'\.roi ends within region 1'):
    found.read(found.ids[0])


def test_two_regions_that_span_too_much_are_not_stitched(tmp_path):
  long = np.zeros((3, 20_000), np.uint8)
  make(tmp_path, OLD, [(1, 0, 0, long), (1, 0, 0, long.T)])
  found = ifcb.objects(str(tmp_path))
  with pytest.raises(ValueError, match='20000 x 20000 px of two regions'):
    found.read(found.ids[0])


def test_no_bin_and_no_labels_are_one_line(tmp_path):
  (tmp_path / 'notes.adc').write_text('x')
  with pytest.raises(InputError, match='holds no IFCB bin'):
    ifcb.objects(str(tmp_path))
  make(tmp_path, NEW, [(1, 0, 0, pixels(0, (4, 5)))])
  with pytest.raises(InputError, match=r'the 1 images of .* have no labels to'):
    loader(tmp_path)(source='ifcb', path=str(tmp_path))


def test_whatever_holds_images_is_opened(tmp_path):
  make(tmp_path / 'bins', NEW, [(1, 0, 0, pixels(0, (4, 5)))])
  assert select.objects(str(tmp_path / 'bins')).ids == (f'{NEW}_00001',)
  file = tmp_path / f'bins/{NEW}.roi'
  assert select.objects(str(file)).ids == (f'{NEW}_00001',)
  files = {
    'ecotaxa.tsv': tsv(
      [
        ecotaxa_row(0),
        ecotaxa_row(1, object_annotation_status='predicted'),
        ecotaxa_row(1, object_annotation_status='predicted'),
      ]
    ),
    'images/0.png': packing.picture(0),
  }
  folder = packing.tree(tmp_path / 'export', files)
  for place in (folder, packing.pack_zip(tmp_path / 'export.zip', files)):
    found = select.objects(str(place))
    assert (
      found.ids == ('S0/A0/o00', 'S1/A1/o01')
      and objects.to_source(found, '').read == 3
    )
    assert found.read(found.ids[0]) == packing.picture(0)
    settings = Preprocessing(size=4, resize='pad', channels=3)
    shown = list(objects.decoded(found, settings, desc='test'))
    assert shown[0].pixels.shape == (4, 4, 3)
    assert shown[1] == 'no such file in the export'
  found = select.objects(str(folder / 'images'))
  assert found.ids == ('0.png',) and found.read('0.png') == packing.picture(0)
  (folder / 'images/other.zip').write_bytes(packing.picture(1))
  assert select.objects(str(folder / 'images')).ids == ('0.png',)
  with pytest.raises(InputError, match='is not a folder'):
    select.objects(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
  ('header', 'side'),
  [
    ('imagerID: 13\nmicronsPerPixel: 0.36\n', 0.36),
    ('pixels per micron = 2.5\r\n', 0.4),
    ('"PixelSize (um)" : .25', 0.25),
    ('pixelSize: 0\npixelsPerMicron: 0\n', np.nan),
    ('imageResizeFactor: 8\nblobXgrowAmount: 20\n', np.nan),
    ('', np.nan),
  ],
)
def test_the_pixel_size_of_a_header(tmp_path, header, side):
  np.testing.assert_allclose(ifcb.pixel_um(header), side)
  folder = make(tmp_path, NEW, [(1, 1, 1, pixels(0, (5, 9)))])
  (folder / f'{NEW}.hdr').write_text(header)
  found = ifcb.objects(str(folder)).measures
  if np.isnan(side):
    assert found.names == ()
  else:
    assert found.names == ('pixel_um',) and found.ids == (f'{NEW}_00001',)
    np.testing.assert_allclose(found.values, [[side]], rtol=1e-6)


def test_a_bin_is_its_cells_sample_and_tells_the_time(tmp_path):
  for name in (OLD, NEW, 'IFCB1_2012_999_081515'):
    FIRST.setdefault(name, 9)
    make(tmp_path, name, [(1, 1, 1, pixels(0, (5, 9)))])
  items = ifcb.objects(str(tmp_path)).items
  assert [(item.sample, item.date, item.time) for item in items] == [
    (NEW, '20130526', '095207'),
    ('IFCB1_2012_999_081515', '', ''),
    (OLD, '20120128', '081515'),
  ]
  assert items[0].image == f'{NEW}_00001.png' and items[0].status == ''


def test_a_line_that_is_cut_off_is_no_region(tmp_path):
  regions = [(n, 0, 0, pixels(n, (5, 9))) for n in (1, 2, 3)]
  file = make(tmp_path, NEW, regions) / f'{NEW}.adc'
  whole = file.read_text()
  last = whole.splitlines()[2]
  offset = last.split(',')[17]
  assert offset == '90'
  cut = whole[: whole.rindex(last)] + last[: last.rindex(',90,') + 2]
  file.write_text(cut)  # the offset's first digit is there
  found = ifcb.objects(str(tmp_path))
  assert found.ids == (f'{NEW}_00001', f'{NEW}_00002')
  assert found.skipped == ((f'{NEW}_00003', 'not a line of an .adc'),)


@pytest.mark.parametrize('name', [OLD, NEW])
@pytest.mark.parametrize('kept', [0, 1, 2])
def test_regions_of_lines_that_are_lost_are_named(tmp_path, name, kept):
  regions = [(n, 0, 0, pixels(n, (1, 2))) for n in (1, 2)]
  file = make(tmp_path, name, regions, lead=name == OLD) / f'{name}.adc'
  lines = file.read_text().splitlines(keepends=True)
  file.write_text(''.join(lines[:kept]))
  if kept == 2:  # as offsets from 1 leave
    with file.with_suffix('.roi').open('ab') as regions_file:
      regions_file.write(b'\0')
  (tmp_path / f'{name} (1).roi').write_bytes(b'x')
  found = ifcb.objects(str(tmp_path))
  assert len(found.ids) == kept
  lost = f'{2 * (2 - kept) + (kept == 0 and name == OLD)} bytes of .roi are of'
  assert found.skipped == (
    (f'{name} (1).roi', 'not the name that the instrument gives a bin'),
    *[(name, f'{lost} no line of .adc: copy it again')][kept == 2 :],
  )


def test_a_table_beside_bins_is_told_and_opens_by_itself(tmp_path, caplog):
  make(tmp_path, NEW, [(1, 0, 0, pixels(0, (5, 9)))])
  file = tmp_path / 'ecotaxa_a.tsv'
  file.write_text('object_id\timg_file_name\na\ta.png\n')
  assert select.objects(str(tmp_path)).ids == (f'{NEW}_00001',)
  assert f'{file}: the IFCB bins beside it are read' in caplog.text
  assert len(select.objects(str(file)).ids) == 1


def test_a_copy_of_a_bin_and_images_beside_are_left_out(tmp_path):
  regions = [(1, 0, 0, pixels(0, (5, 9)))]
  for place in ('a', 'b/c', '.trash'):
    make(tmp_path / place, NEW, regions)
  (tmp_path / '0').mkdir()
  (tmp_path / f'0/{NEW}.hdr').write_text('')
  (tmp_path / 'b/x.PNG').write_bytes(packing.picture(0))
  (tmp_path / 'b/._x.png').write_bytes(b'')
  (tmp_path / 'b/up').symlink_to(tmp_path)
  found = select.objects(str(tmp_path))
  assert found.ids == (f'{NEW}_00001',)
  assert images(found)[f'{NEW}_00001'].shape == (5, 9)
  assert found.skipped == (
    (f'b/c/{NEW}', f'a copy of a/{NEW}'),
    (f'0/{NEW}', f'a copy of a/{NEW}'),
  )
  assert found.left_aside == {ifcb.BESIDE: 1}


def test_bins_and_tables_in_linked_folders_are_found(tmp_path):
  make(tmp_path / 'real', NEW, [(1, 0, 0, pixels(0, (5, 9)))])
  (tmp_path / 'bins').mkdir()
  (tmp_path / 'bins/link').symlink_to(tmp_path / 'real')
  assert select.objects(str(tmp_path / 'bins')).ids == (f'{NEW}_00001',)
  packing.tree(tmp_path / 'table', {'ecotaxa.tsv': tsv([ecotaxa_row(0)])})
  (tmp_path / 'export').mkdir()
  (tmp_path / 'export/link').symlink_to(tmp_path / 'table')
  assert select.objects(str(tmp_path / 'export')).ids == ('S0/A0/o00',)


def test_bins_in_archives_are_read_there(tmp_path):
  make(tmp_path / 'a', OLD, overlapping()[1])
  make(tmp_path / 'a', NEW, [(1, 0, 0, pixels(0, (5, 9))), (2, 0, 0, EMPTY)])
  plain = ifcb.objects(str(tmp_path / 'a'))
  files = {f.name: f.read_bytes() for f in (tmp_path / 'a').iterdir()}
  (tmp_path / 'b').mkdir()
  packed = packing.pack_zip(
    tmp_path / 'b/2012.zip', files | {f'.old/{OLD}.adc': b'', 'y.png': b''}
  )
  for place in (packed, packed.parent):
    found = select.objects(str(place))
    assert found.ids == plain.ids and not found.skipped
    assert found.left_aside == plain.left_aside | {ifcb.BESIDE: 1}
    for id, image in images(plain).items():
      np.testing.assert_array_equal(images(found)[id], image)


def test_an_empty_path_is_not_the_folder_at_hand():
  for read in (ifcb.objects, flowcam.objects):
    with pytest.raises(
      InputError, match=r'^data.path is empty: name the place'
    ):
      read('')


def test_damage_in_an_archive_of_bins_is_named(tmp_path):
  make(tmp_path / 'a', OLD, [(1, 0, 0, pixels(0, (5, 9)))])
  make(tmp_path / 'a', NEW, [(1, 0, 0, pixels(1, (7, 9)))])
  packed = packing.pack_zip(
    tmp_path / 'b.zip',
    {f.name: f.read_bytes() for f in (tmp_path / 'a').iterdir()},
  )
  data = packed.read_bytes()
  for bad in (
    pixels(1, (7, 9)).tobytes(),
    (tmp_path / f'a/{OLD}.adc').read_bytes(),
  ):
    data = data.replace(bad, bytes(len(bad)))
  packed.write_bytes(data)
  found = ifcb.objects(str(packed))
  assert (
    found.ids == (f'{NEW}_00001',) and objects.to_source(found, '').read == 2
  )
  ((name, reason),) = found.skipped
  assert name == OLD and reason.startswith('.adc: damaged in the archive (')
  with pytest.raises(ValueError, match='damaged in the archive'):
    found.read(found.ids[0])


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_bins_of_other_cases_and_encodings_are_read(tmp_path, encoding):
  make(tmp_path, NEW, [(1, 10, 20, pixels(0, (5, 9)))])
  table = tmp_path / f'{NEW}.adc'
  text = table.read_text()
  table.unlink()
  table.with_name(f'{NEW.lower()}.ADC').write_bytes(text.encode(encoding))
  found = ifcb.objects(str(tmp_path))
  assert found.ids == (f'{NEW}_00001',) and not found.skipped
  np.testing.assert_array_equal(
    images(found)[f'{NEW}_00001'], pixels(0, (5, 9))
  )


@pytest.mark.parametrize(
  ('column', 'value'), [(15, '-5'), (17, '-1'), (15, '900000000')]
)
def test_a_region_of_impossible_sides_is_no_region(tmp_path, column, value):
  regions = [(n, 0, 0, pixels(n, (5, 9))) for n in (1, 2)]
  file = make(tmp_path, NEW, regions) / f'{NEW}.adc'
  first, second = file.read_text().splitlines()
  cells = first.split(',')
  assert cells[15:18] == ['9', '5', '0']  # width, height, offset
  cells[column] = value
  file.write_text(f'{",".join(cells)}\n \n{second}\n')
  found = ifcb.objects(str(tmp_path))
  assert found.skipped == ((f'{NEW}_00001', 'not a line of an .adc'),)
  assert found.ids == (f'{NEW}_00003',)  # the blank line counts
