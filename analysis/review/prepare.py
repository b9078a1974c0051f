"""Prepares what a review needs, and keeps it for the next start."""

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

import plankton_jax
from analysis.files import folders, inputs, new_images, pile, taxa
from analysis.files.inputs import Source
from analysis.files.originals import Read
from analysis.files.taxa import Taxa
from analysis.measures import groups, labeller
from analysis.review import refit, store, thumbnails
from analysis.review.refit import Known
from analysis.review.store import Stored
from analysis.review.thumbnails import Thumbnails
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError
from plankton_jax.files import atomic, home

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
  root: pathlib.Path | None  # where ids are files, if they are
  items: tuple[Object, ...]  # [N] what is known of each
  taxa: Taxa
  references: str  # the software and the encoder


class Gathered(NamedTuple):
  """Embedded images, and how they lie to each other once that is known."""

  ids: list[str]
  embedding: np.ndarray  # [N, D] float32
  white: int = 0  # the 16-bit value that became white
  group: np.ndarray | None = None  # [N]
  density: np.ndarray | None = None  # [N]
  near: np.ndarray | None = None  # [N, K]


def images(
  source: Source,
  *,
  folder_: str | None,
  splits: Sequence[str],
  acceptance: float,
  pixel_um: float | None,
  listed: Taxa,
  out: pathlib.Path,
) -> Images:
  """Embeds, groups and shrinks the images, or reads what a start before did.

  The images of an earlier start come first and keep their groups. What was
  added to the folder since is embedded and follows; what is no longer there
  stays, so that no decision is lost.

  Raises:
    InputError: there is no image, no labelled one, or no picture.
  """
  before = store.read(out / store.FILE)
  kept: pathlib.Path | None = None
  root: pathlib.Path | None = None
  if folder_:
    root = home.expand(folder_)
    name, read = root.resolve().name, _reader(root)
    kept = _kept_file(source, pixel_um, out)
    found = _of_folder(source, folder_, pixel_um, kept, before)
  else:
    every = pile.gather(source, images=None, splits=splits, pixel_um=pixel_um)
    if every.read is None:
      raise InputError(f'review needs pictures; {"; ".join(every.notes)}')
    name, read = every.name, every.read
    found = Gathered(every.rows.id.tolist(), every.rows.embedding)
    if len(set(found.ids)) < len(found.ids):
      raise InputError(f'{name}: two images have one id; review one split')
  found = _in_order(found, before.ids, out / store.FILE)
  if found.near is None:
    print(f'grouping {len(found.ids):,} images', file=sys.stderr)
    made = groups.find(found.embedding)
    found = found._replace(group=made.of, density=made.density, near=made.near)
    if kept is not None:
      _keep(kept, found)
  known = known_classes(source, found.embedding.shape[1], acceptance)
  assert found.group is not None and found.near is not None
  assert found.density is not None
  items, of_run = _origin(source, found.ids)
  step = '' if source.workdir is None else f' step {inputs.step(source)}'
  return Images(
    name,
    found.ids,
    found.embedding,
    found.embedding @ known.axes,
    continued(found.group, before),
    found.density,
    refit.link(found.embedding, found.near),
    known,
    thumbnails.collect(out, found.ids, read, before=len(before.ids)),
    read,
    root,
    items,
    taxa.merge(listed, of_run),
    f'plankton_jax {plankton_jax.__version__}, {source.name}{step}',
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


def _of_folder(
  source: Source,
  path: str,
  pixel_um: float | None,
  kept: pathlib.Path,
  before: Stored,
) -> Gathered:
  """Embeds the images of a folder that no start before did."""
  listed = folder.scan(path, field='--images').images
  present, decided = set(listed.ids), set(before.ids)
  if decided and not present & decided:
    raise InputError(
      f'{kept.parent / store.FILE} holds decisions on {len(decided):,} other'
      ' images: give another folder with --out'
    )
  old = _load(kept)
  known = set(old.ids)
  missing = [i for i, key in enumerate(listed.ids) if key not in known]
  if missing:
    part = listed.take(missing)
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
      f'{gone:,} images are no longer in {path}; what is decided of them stays',
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
  """Puts the images of a start before first.

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


def _reader(root: pathlib.Path) -> Read:
  return lambda key: folders.read(root / key)


def _kept_file(
  source: Source, pixel_um: float | None, out: pathlib.Path
) -> pathlib.Path:
  """Names the file of embeddings by the encoder and the size of pixels."""
  encoder = source.encoder or inputs.step(source)
  digest = hashlib.blake2b(f'{encoder} {pixel_um}'.encode(), digest_size=8)
  return out / f'embedded-{digest.hexdigest()}.npz'


def _origin(
  source: Source, ids: Sequence[str]
) -> tuple[tuple[Object, ...], Taxa]:
  """Looks up what the run's export says of the images, and its taxa."""
  listed: Sequence[Object] = ()
  try:
    listed = taxa.objects_of_run(source)
  except InputError as error:
    print(f'no dates, places and taxa: {error}', file=sys.stderr)
  known = {item.id: item for item in listed}
  files = new_images.object_ids(ids)
  items = tuple(
    known.get(key, Object(short, key))
    for key, short in zip(ids, files, strict=True)
  )
  return items, taxa.from_objects(listed)[0]


def known_classes(source: Source, size: int, acceptance: float) -> Known:
  """Fits the classes of the run's labelled images, of `size` dimensions.

  Without a run there are none before the first decision.

  Raises:
    InputError: the run has no labelled train images.
  """
  if source.workdir is None:
    axes = np.eye(size, dtype=np.float32)
    return Known((), np.zeros((0, size)), np.zeros(0, int), TEMPERATURE, axes)
  gallery, rows, _ = labeller.gallery(source, None)
  val, _ = labeller.split(source, 'val', gallery.class_names)
  fitted = labeller.fit(gallery, rows, val, acceptance=acceptance)
  space = fitted.seen.space
  return Known(
    gallery.class_names,
    space.means + space.origin @ space.map,
    space.counts,
    fitted.temperature,
    space.map.astype(np.float32),
  )
