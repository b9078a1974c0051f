"""Prepares what a review needs, and keeps it for the next start."""

import hashlib
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.files import folders, inputs, pile
from analysis.files.inputs import Source
from analysis.files.originals import Read
from analysis.measures import groups, labeller
from analysis.review import thumbnails
from analysis.review.refit import Known
from analysis.review.thumbnails import Thumbnails
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

TEMPERATURE = 0.1  # of unit embeddings, where no images tell a better one


class Images(NamedTuple):
  """The images to review."""

  name: str
  ids: list[str]
  embedding: np.ndarray  # [N, D] float32
  white: np.ndarray  # [N, D] float32, as Known.axes whitens them
  group: np.ndarray  # [N] as groups.find has it
  density: np.ndarray  # [N]
  known: Known
  thumbnails: Thumbnails
  read: Read  # id -> original image
  root: pathlib.Path | None  # where ids are files, if they are


def images(
  source: Source,
  *,
  folder_: str | None,
  splits: Sequence[str],
  acceptance: float,
  out: pathlib.Path,
) -> Images:
  """Embeds, groups and shrinks the images, or reads what a start before did.

  Raises:
    InputError: there is no image, no labelled one, or no picture.
  """
  root: pathlib.Path | None = None
  kept = _kept_file(source, folder_, out) if folder_ else None
  if folder_ and kept is not None and kept.exists():
    name, root, read = _folder(folder_)
    with np.load(kept, allow_pickle=False) as arrays:
      ids = arrays['id'].tolist()
      embedding, group = arrays['embedding'], arrays['group']
      density = arrays['density']
  else:
    every = pile.gather(source, images=folder_, splits=splits)
    if every.read is None:
      raise InputError(f'review needs pictures; {"; ".join(every.notes)}')
    name, read = every.name, every.read
    root = _folder(folder_)[1] if folder_ else None
    ids, embedding = every.rows.id.tolist(), every.rows.embedding
    print(f'grouping {len(ids):,} images', file=sys.stderr)
    found = groups.find(embedding)
    group, density = found.of, found.density
    if kept is not None:
      out.mkdir(parents=True, exist_ok=True)
      with atomic.file(kept) as building, building.open('wb') as file:
        np.savez(
          file,
          id=np.array(ids, np.str_),
          embedding=embedding,
          group=group,
          density=density,
        )
  if len(set(ids)) < len(ids):
    raise InputError(f'{name}: two images have one id; review one split')
  known = known_classes(source, embedding.shape[1], acceptance)
  small = thumbnails.collect(out, ids, read)
  return Images(
    name,
    ids,
    embedding,
    embedding @ known.axes,
    group,
    density,
    known,
    small,
    read,
    root,
  )


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


def _folder(path: str) -> tuple[str, pathlib.Path, Read]:
  root = pathlib.Path(path).expanduser()
  return root.resolve().name, root, lambda key: folders.read(root / key)


def _kept_file(source: Source, path: str, out: pathlib.Path) -> pathlib.Path:
  """Names the file of a folder's embeddings by its files and the encoder."""
  listing = folder.scan(path, field='--images')
  encoder = source.encoder or inputs.step(source)
  text = '\0'.join((str(encoder), *listing.ids))
  digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
  return out / f'images-{digest}.npz'
