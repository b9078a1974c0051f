"""Renders the page of new images, least certain first, with neighbours."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.files import inputs, originals
from analysis.files.folders import Embedded
from analysis.files.inputs import Source
from analysis.files.new_images import NewImages
from analysis.files.originals import Read
from analysis.files.result import Picture
from analysis.measures import labeller, predictions
from analysis.measures.predictions import Prediction
from analysis.page import html, pictures
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

SHOWN = 150  # unknown images, and as many others

Row = Mapping[str, Any]


def render(
  *,
  source: Source,
  encoder: 'Encoder | None',
  new: NewImages,
  examples: Embedded | None,
  found: Sequence[Prediction],
  classes: Sequence[Row],
  ranks: Sequence[Row],
  measures: Row,
  notes: Sequence[str],
  reliability: Picture | None,
) -> str:
  """Renders the page of predictions."""
  readers: dict[str, Read] = {}
  if new.picture:
    readers['new'] = new.picture
  try:
    readers['labelled'] = _labelled(source, examples, encoder)
  except InputError as error:
    notes = [*notes, f'No pictures of labelled images: {error}']
  return html.render(
    'predictions.html.j2',
    {'script': html.script('pictures.js')},
    title=new.name,
    run=source.name,
    step=encoder.step if encoder else None,
    images=len(found),
    notes=notes,
    added=examples is not None,
    examples_alone=source.encoder is not None,
    classes=classes,
    ranks=ranks,
    measures=measures,
    reliability=html.figure(reliability) if reliability else None,
    skipped=new.skipped,
    citation=inputs.citations([source])[0],
    **lists(predictions.uncertain(found), readers),
  )


def _labelled(
  source: Source, examples: Embedded | None, encoder: 'Encoder | None'
) -> Read:
  """Returns a function: id of a labelled image -> picture."""
  if examples is None:
    return originals.reader(source)
  own = {
    labeller.example_id(examples, key): key for key in examples.rows.id.tolist()
  }
  added = originals.reader_of(examples.of, encoder, examples.white)
  read = None if source.encoder else originals.reader(source)
  return lambda key: (
    added(own[key]) if read is None or key in own else read(key)
  )


def lists(
  found: Sequence[Prediction], readers: dict[str, Read]
) -> dict[str, Any]:
  """Lists the first unknown images and the first others, with pictures.

  `found` has the least certain first; `readers` give the pictures of `new` and
  `labelled` images, if there are any.
  """
  split = {
    'unknown': [one for one in found if not one.known],
    'uncertain': [one for one in found if one.known],
  }
  shown = {name: some[:SHOWN] for name, some in split.items()}
  wanted = [
    key
    for some in shown.values()
    for one in some
    for key in _keys(one)
    if key[0] in readers
  ]
  keys = list(dict.fromkeys(wanted))
  sheets = pictures.sheets(keys, lambda key: readers[key[0]](key[1]))
  places = {key: place for place, key in enumerate(keys)}
  return {
    'counts': {name: len(some) for name, some in split.items()},
    'data': pictures.payload(sheets),
    **{name: [_nest(o, places) for o in some] for name, some in shown.items()},
  }


def _keys(one: Prediction) -> list[tuple[str, str]]:
  return [('new', one.id), *(('labelled', n.id) for n in one.neighbours)]


def _nest(one: Prediction, places: dict[tuple[str, str], int]) -> Row:
  """Nests a prediction as the page shows it: headings, then pictures."""
  if one.known:
    details = f'{one.confidence:.2f}'
    if one.second:
      details += f', or {one.second} {one.second_confidence:.2f}'
    if one.placed and one.taxon != one.name:
      details += f'; sure of {one.taxon or "nothing"}'
  else:
    details = (
      f'{one.distance:.3f} from {one.nearest}, threshold {one.threshold:.3f}'
    )
  own: Row = {
    'id': one.id,
    'class': one.id.rpartition('/')[2],
    'distance': None,
  }
  others = [
    {'id': n.id, 'class': n.name, 'distance': n.distance}
    for n in one.neighbours
  ]
  return {
    'heading': one.name,
    'details': details,
    'pictures': [
      {**item, 'picture': places.get(key, -1)}
      for item, key in zip([own, *others], _keys(one), strict=True)
    ],
  }
