"""Prepares what a review needs, and keeps it for the next start."""

import hashlib
import pathlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from analysis.files import (
  checks,
  folders,
  inputs,
  new_images,
  originals,
  pile,
  taxa,
)
from analysis.files.inputs import Source
from analysis.files.originals import Read
from analysis.files.taxa import Taxa
from analysis.formats import darwin_core
from analysis.measures import groups, labeller
from analysis.review import refit, store, thumbnails
from analysis.review.refit import Known
from analysis.review.store import Stored
from analysis.review.thumbnails import Thumbnails
from plankton_jax.data.sources.objects import Object, Objects
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

Original = Callable[[str], bytes]  # id -> its file; raises ValueError
TEMPERATURE = 0.1  # of unit embeddings, where no images tell a better one


class Images(NamedTuple):
  """The images to review."""

  name: str
  ids: list[str]
  embedding: np.ndarray  # [N, D] float32
  white: np.ndarray  # [N, D] float32, as Known.axes whitens them
  group: np.ndarray  # [N] as groups.find has it
  density: np.ndarray  # [N]
  links: sparse.csr_array  # [N, N] as refit.link makes them
  known: Known
  thumbnails: Thumbnails
  read: Read  # id -> original image
  original: Original | None  # where ids are files
  items: tuple[Object, ...]  # [N] what is known of each
  taxa: Taxa
  references: str  # the software and the encoder
  drawn: np.ndarray | None = None  # rows of a draw to check, in its order


class Gathered(NamedTuple):
  """Embedded images, and how they lie to each other once that is known."""

  ids: list[str]
  embedding: np.ndarray  # [N, D] float32
  white: int = 0  # the 16-bit value that became white
  group: np.ndarray | None = None  # [N]
  density: np.ndarray | None = None  # [N]
  near: np.ndarray | None = None  # [N, K]


class Opened(NamedTuple):
  """Embedded images, and how to see them."""

  name: str
  found: Gathered
  read: Read  # id -> original image
  draw: Sequence[str] | None = None  # ids of a draw to check, in its order
  original: Original | None = None  # where ids are files
  items: Mapping[str, Object] = types.MappingProxyType({})  # by id


def images(
  source: Source,
  *,
  folder_: str | None,
  export: str | None = None,
  check: pathlib.Path | None = None,
  splits: Sequence[str],
  acceptance: float,
  pixel_um: float | None,
  listed: Taxa,
  out: pathlib.Path,
) -> Images:
  """Embeds, groups and shrinks the images, or reads what an earlier start kept.

  The images of an earlier start come first and keep their groups. What was
  added to the folder since is embedded and follows; what is no longer there
  stays, so that no decision is lost.

  Args:
    source: a run or an encoder.
    folder_: a folder of images.
    export: an EcoTaxa export, a table, IFCB bins or FlowCam runs.
    check: a table of images, as `checks.listed` makes it: these alone.
    splits: of the run, without folder and export.
    acceptance: share of images of known classes to name.
    pixel_um: the side of pixels of new images, µm; None takes the known.
    listed: what a table says of taxa.
    out: the folder of the review.

  Raises:
    InputError: there is no image, no labelled one, or no picture.
  """
  before = store.read(out / store.FILE)
  kept: pathlib.Path | None = None
  if folder_ or export:
    kept = _kept_file(source, pixel_um, out)
    place = pile.open_place(source, folder_, export)
    opened = _open_place(source, place, check, pixel_um, kept, before)
  else:
    opened = _open_pile(source, splits, check, pixel_um)
  found = _in_order(opened.found, before.ids, out / store.FILE)
  if found.near is None:
    print(f'grouping {len(found.ids):,} images', file=sys.stderr)
    made = groups.find(found.embedding)
    found = found._replace(group=made.of, density=made.density, near=made.near)
    if kept is not None:
      _keep(kept, found)
  known = known_classes(source, found.embedding.shape[1], acceptance)
  assert found.group is not None and found.near is not None
  assert found.density is not None
  items, of_run = _origin(source, opened.items, found.ids)
  rows = {key: row for row, key in enumerate(found.ids)}
  draw = [rows[key] for key in opened.draw or () if key in rows]
  step = None if source.workdir is None else inputs.step(source)
  return Images(
    opened.name,
    found.ids,
    found.embedding,
    found.embedding @ known.axes,
    continued(found.group, before),
    found.density,
    refit.link(found.embedding, found.near),
    known,
    thumbnails.collect(out, found.ids, opened.read, before=len(before.ids)),
    opened.read,
    opened.original,
    items,
    taxa.merge(listed, of_run),
    darwin_core.references(source.name, step),
    None if opened.draw is None else np.array(draw, int),
  )


def continued(group: np.ndarray, before: Stored) -> np.ndarray:
  """Numbers groups [N] so that rows of an earlier start keep theirs.

  A new row joins the group that most rows of its own group were in. Groups of
  new rows alone get new numbers.
  """
  count, fresh = len(before.ids), before.most + 1
  found = np.append(before.groups, np.full(len(group) - count, groups.NONE))
  for g in np.unique(group[count:][group[count:] != groups.NONE]):
    rows = np.flatnonzero(group == g)
    old = before.groups[rows[rows < count]]
    old = old[old != groups.NONE]
    found[rows[rows >= count]] = (
      np.bincount(old).argmax() if old.size else fresh
    )
    fresh += not old.size
  return found


def _open_place(
  source: Source,
  place: Objects,
  check: pathlib.Path | None,
  pixel_um: float | None,
  kept: pathlib.Path,
  before: Stored,
) -> Opened:
  """Embeds what is new of a folder or of an export's objects."""
  read = originals.reader_of(place)
  if check:
    place = place.take(checks.drawn(check, place.ids))
  draw = place.ids if check else None
  found = _embed(source, place, pixel_um, kept, before)
  items = dict(zip(place.ids, place.items, strict=False))
  original = None if place.items else place.read
  return Opened(place.name, found, read, draw, original, items)


def _open_pile(
  source: Source,
  splits: Sequence[str],
  check: pathlib.Path | None,
  pixel_um: float | None,
) -> Opened:
  """Opens splits of a run, which are embedded.

  Raises:
    InputError: there is no such split, no picture, or an id is there twice.
  """
  every = pile.gather(source, images=None, splits=splits, pixel_um=pixel_um)
  if every.read is None:
    raise InputError(f'review needs pictures; {"; ".join(every.notes)}')
  found = Gathered(every.rows.id.tolist(), every.rows.embedding)
  if len(set(found.ids)) < len(found.ids):
    raise InputError(f'{every.name}: two images have one id; review one split')
  if not check:
    return Opened(every.name, found, every.read)
  found = _take(found, checks.drawn(check, found.ids))
  return Opened(every.name, found, every.read, found.ids)


def _embed(
  source: Source,
  place: Objects,
  pixel_um: float | None,
  kept: pathlib.Path,
  before: Stored,
) -> Gathered:
  """Embeds the images of a place that no earlier start embedded."""
  present, decided = set(place.ids), set(before.ids)
  if decided and not present & decided:
    raise InputError(
      f'{kept.parent / store.FILE} holds decisions on {len(decided):,} other'
      ' images: give another folder with --out'
    )
  old = _load(kept)
  known = set(old.ids)
  missing = [i for i, key in enumerate(place.ids) if key not in known]
  if missing:
    part = place.take(missing)
    encoder = folders.encoder(source)
    try:
      new = folders.embed(encoder, part, pixel_um=pixel_um, white=old.white)
    except InputError as error:
      if not known:
        raise
      print(f'no image is added: {error}', file=sys.stderr)
    else:
      rows = new.rows
      if known:
        print(f'{len(rows.id):,} images were added', file=sys.stderr)
        rows = rows._replace(
          embedding=np.concatenate([old.embedding, rows.embedding])
        )
      old = Gathered(
        [*old.ids, *new.rows.id.tolist()], rows.embedding, new.white
      )
  wanted = [i for i, key in enumerate(old.ids) if key in present | decided]
  gone = sum(old.ids[i] not in present for i in wanted)
  if gone:
    print(
      f'{gone:,} images are no longer in {place.place}; what is'
      ' decided of them stays',
      file=sys.stderr,
    )
  return _take(old, wanted)


def _take(found: Gathered, rows: Sequence[int]) -> Gathered:
  """Selects rows; groups and the like hold for all in their order alone."""
  if list(rows) == list(range(len(found.ids))):
    return found
  ids = [found.ids[i] for i in rows]
  return Gathered(ids, found.embedding[list(rows)], found.white)


def _in_order(
  found: Gathered, first: Sequence[str], path: pathlib.Path
) -> Gathered:
  """Puts the images of earlier starts first.

  Raises:
    InputError: one of them is neither there nor embedded by this encoder.
  """
  place = {key: i for i, key in enumerate(found.ids)}
  missing = [key for key in first if key not in place]
  if missing:
    raise InputError(
      f'{path} holds decisions on {len(missing):,} other images, such as'
      f' {missing[0]}: put them back, or give another folder with --out'
    )
  known = set(first)
  later = [i for i, key in enumerate(found.ids) if key not in known]
  return _take(found, [*(place[key] for key in first), *later])


def _load(path: pathlib.Path) -> Gathered:
  """Reads what `_keep` wrote; no image without a file."""
  if not path.exists():
    return Gathered([], np.zeros((0, 0), np.float32))
  with np.load(path, allow_pickle=False) as arrays:
    return Gathered(
      arrays['id'].tolist(),
      arrays['embedding'],
      int(arrays['white']),
      arrays['group'],
      arrays['density'],
      arrays['near'],
    )


def _keep(path: pathlib.Path, found: Gathered) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {'id': np.array(found.ids, np.str_), **found._asdict()}
  del arrays['ids']
  with atomic.file(path) as building, building.open('wb') as file:
    np.savez(file, **arrays)


def _kept_file(
  source: Source, pixel_um: float | None, out: pathlib.Path
) -> pathlib.Path:
  """Names the file of embeddings by the encoder and the size of pixels."""
  encoder = source.encoder or inputs.step(source)
  digest = hashlib.blake2b(f'{encoder} {pixel_um}'.encode(), digest_size=8)
  return out / f'embedded-{digest.hexdigest()}.npz'


def _origin(
  source: Source, described: Mapping[str, Object], ids: Sequence[str]
) -> tuple[tuple[Object, ...], Taxa]:
  """Looks up what exports say of the images, and their taxa.

  These are the run's export and `described`, objects by their ids.
  """
  known: dict[str, Object] = {}
  try:
    known = {item.id: item for item in taxa.objects_of_run(source)}
  except InputError as error:
    print(f'no dates, places and taxa: {error}', file=sys.stderr)
  known |= described
  files = new_images.object_ids(ids)
  items = tuple(
    known.get(key, Object(short, key))
    for key, short in zip(ids, files, strict=True)
  )
  return items, taxa.from_objects(known.values())[0]


def known_classes(source: Source, size: int, acceptance: float) -> Known:
  """Fits the classes of the run's labelled images, of `size` dimensions.

  Without a run there are none before the first decision.

  Raises:
    InputError: the run has no labelled train images.
  """
  if source.workdir is None:
    axes = np.eye(size, dtype=np.float32)
    return Known((), np.zeros((0, size)), np.zeros(0, int), TEMPERATURE, axes)
  fitted, _ = labeller.of_run(source, acceptance)
  space = fitted.seen.space
  return Known(
    fitted.gallery.class_names,
    space.means + space.origin @ space.map,
    space.counts,
    fitted.temperature,
    space.map.astype(np.float32),
  )
