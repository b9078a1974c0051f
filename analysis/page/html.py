"""Fills a page's template with figures and data."""

import base64
import hashlib
import io
import pathlib
from typing import Any

from analysis.figures import style
from analysis.files.result import Picture

PAGE = pathlib.Path(__file__).parent
DPI = style.STYLE['savefig.dpi']
LARGEST_SVG = 600_000  # bytes; a larger figure goes in as PNG


def figure(picture: Picture) -> dict[str, Any]:
  """Encodes a figure as a data URI, SVG if small; returns its CSS size too."""
  from PIL import Image

  with Image.open(io.BytesIO(picture.png)) as image:
    width, height = (round(side * 96 / DPI) for side in image.size)
  content, kind = picture.png, 'png'
  if len(picture.svg) <= LARGEST_SVG:
    content, kind = picture.svg, 'svg+xml'
  uri = f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
  return {'uri': uri, 'width': width, 'height': height}


def script(*names: str) -> str:
  """Joins script files of this folder, in this order."""
  return '\n'.join((PAGE / name).read_text() for name in names)


def render(template: str, scripts: dict[str, str], **values: Any) -> str:
  """Fills a template; only its `scripts` may run, by name."""
  import jinja2
  from markupsafe import Markup

  hashes = [
    base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    for text in scripts.values()
  ]
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['breakable'] = lambda name: Markup('_<wbr>').join(
    name.split('_')
  )
  return environment.get_template(template).render(
    style=Markup((PAGE / 'report.css').read_text()),
    policy=' '.join(f"'sha256-{digest}'" for digest in hashes),
    **{name: Markup(text) for name, text in scripts.items()},
    **values,
  )
