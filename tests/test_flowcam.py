"""Runs of a FlowCam: lists and collages, made here."""

import io

import numpy as np
import packing
import pytest
from PIL import Image

from plankton_jax.data import select
from plankton_jax.data.sources import flowcam, folder, objects
from plankton_jax.errors import InputError

COLUMNS = (
  *('id|int32', 'image_x|int32', 'image_y|int32', 'image_w|int32'),
  *('image_h|int32', 'timestamp|timestamp', 'collage_file|string'),
)
WHEN = '2019-10-08T14:23:07.847'
SHEET = np.random.default_rng(0).integers(0, 256, (12, 20), np.uint8)


def listed(*rows, columns=COLUMNS, end='\n'):
  lines = ['017', f'num-fields|{len(columns)}', *columns]
  lines += ['|'.join(map(str, row)) for row in rows]
  return (end.join(lines) + end).encode()


def run(root, *rows, name='run', **options):
  """Writes a run of one collage, its mask and a background."""
  stream = io.BytesIO()
  Image.fromarray(SHEET).save(stream, 'TIFF')
  return packing.tree(
    root,
    {
      f'{name}.lst': listed(*rows, **options),
      f'{name}_000001.tif': stream.getvalue(),
      f'{name}_000001_bin.tif': packing.picture(0),
      'cal_image_000001.tif': packing.picture(1),
    },
  )


def row(number, x, y, width, height, collage='run_000001.tif'):
  return number, x, y, width, height, WHEN, collage


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_particles_are_cut_out_of_their_collage(tmp_path, end):
  run(tmp_path / 'a', row(1, 0, 0, 5, 6), row(12, 15, 2, 5, 10), end=end)
  for place in (tmp_path, tmp_path / 'a/run.lst'):
    found = select.objects(str(place))
    assert found.ids == ('run_00001', 'run_00012') and not found.skipped
    expected = (SHEET[:6, :5], SHEET[2:12, 15:20])
    for number, pixels in enumerate(expected):
      read = Image.open(io.BytesIO(found.read(found.ids[number])))
      np.testing.assert_array_equal(np.asarray(read), pixels)
    assert {(x.sample, x.date) for x in found.items} == {('run', '20191008')}
  assert select.objects(str(tmp_path)).left_aside == {flowcam.BESIDE: 2}


def test_every_row_of_a_list_is_accounted_for(tmp_path):
  run(
    tmp_path,
    row(1, 16, 0, 5, 6),  # one column too far to the right
    row(2, 0, 7, 5, 6),  # one row too far down
    row(3, 0, 0, 4, 4, 'gone.tif'),
    row(4, 0, 0, 0, 4),
    row(5, 0, 0, 4, 4, '../run_000001.tif'),
    row(6, -1, 0, 4, 4),
    row('x', 0, 0, 4, 4),
    (7, 0),
    row(8, 0, 0, 4, 4),
    row(8, 4, 0, 4, 4),
  )
  found = flowcam.objects(str(tmp_path))
  assert found.ids == tuple(f'run_0000{n}' for n in (1, 2, 3, 8))
  first = 3 + len(COLUMNS)
  no_line = 'not a line of a list'
  assert found.skipped == (
    *((f'run.lst:{first + k}', no_line) for k in (4, 5, 6, 7)),
    (f'run.lst:{first + 9}', 'particle 8 comes again'),
  )
  assert found.left_aside == {flowcam.EMPTY: 1, flowcam.BESIDE: 2}
  assert objects.to_source(found, '').read == 10 + 2
  reasons = ('beyond the edge of run_000001', 'beyond the edge', 'gone.tif: No')
  for number, reason in enumerate(reasons):
    with pytest.raises(ValueError, match=reason):
      found.read(found.ids[number])


def test_runs_of_one_name_are_kept_apart(tmp_path):
  for place in 'ab':
    run(tmp_path / place, row(1, 0, 0, 5, 6))
  found = flowcam.objects(str(tmp_path))
  assert found.ids == ('a/run_00001', 'b/run_00001')
  assert [item.sample for item in found.items] == ['a/run', 'b/run']


def test_a_collage_is_never_taken_for_one_image(tmp_path):
  run(tmp_path / 'copepod', row(1, 0, 0, 5, 6))
  with pytest.raises(InputError, match=r'000001.tif is a collage .*--export='):
    folder.scan(str(tmp_path), field='--images')
  (tmp_path / 'copepod/run_000001.tif').unlink()
  # Its collage is not there.
  assert len(folder.scan(str(tmp_path)).images.ids) == 2


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (f'a\nb\n{":".join("0" * 47)}\n'.encode(), 'whose columns have no names'),
    (listed(columns=COLUMNS[1:]), 'no column id among its 6: open the run'),
  ],
)
def test_lists_that_cannot_be_read_are_one_line(tmp_path, text, message):
  (tmp_path / 'x.lst').write_bytes(text)
  (tmp_path / 'x_1.png').write_bytes(packing.picture(0))
  for read in (flowcam.objects, folder.scan):
    with pytest.raises(InputError, match=message) as error:
      read(str(tmp_path))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('count', ['8', '6', '9' * 5000])
def test_a_list_names_as_many_columns_as_it_says(tmp_path, count):
  text = listed(row(1, 0, 0, 5, 6)).replace(b's|7', b's|' + count.encode())
  (tmp_path / 'x.lst').write_bytes(text)
  with pytest.raises(InputError, match=r'is not how many|no column'):
    flowcam.objects(str(tmp_path))


def test_lists_of_other_programs_are_no_runs(tmp_path):
  packing.tree(tmp_path, {'x.lst': b'1\n2\n3\n', 'a.png': packing.picture(0)})
  assert select.described(str(tmp_path)) is None
  with pytest.raises(InputError, match=r'holds no list \(.lst\) of a FlowCam'):
    flowcam.objects(str(tmp_path))


def test_lists_of_other_encodings_and_hands_are_read(tmp_path):
  rows = (
    row(1, 0, 0, 5, 6, 'RUN_000001.TIF'),
    row(2, 0, 0, 5, 6, 'C:\\runs\\run_000001.tif'),
    (*row(3, '0.0', '0', 5.0, 6.0), ''),
    row(4, 0.5, 0, 5, 6),
    row(5, 0, 0, 5, 6, '../run_000001.tif'),
    row(6, 'nan', 0, 5, 6),
  )
  text = listed(*rows).decode()
  for encoding in ('utf-8-sig', 'utf-16', 'latin-1'):
    place = run(tmp_path / encoding)
    (place / 'run.lst').write_bytes(text.encode(encoding))
    found = select.objects(str(place))
    assert found.ids == ('run_00001', 'run_00002', 'run_00003')
    assert len({*map(found.read, found.ids)}) == 1
    assert [why for _, why in found.skipped] == ['not a line of a list'] * 3
    assert objects.to_source(found, '').read == 6 + 2
