import pytest

from plankton_jax.errors import InputError
from plankton_jax.files import json_text


def test_a_value_of_the_type_is_returned():
  assert json_text.parse('{"a": [1]}') == {'a': [1]}
  assert json_text.parse('{"ä": 1}'.encode()) == {'ä': 1}
  assert json_text.parse('3', int) == 3


@pytest.mark.parametrize(
  ('text', 'kind', 'reason'),
  [
    (b'', dict, 'no JSON: Expecting value'),
    ('{"a": ', dict, 'no JSON: Expecting value'),
    (b'{"\xff": 1}', dict, "no JSON: 'utf-8' codec"),
    ('[' * 100_000, dict, 'nested too deeply'),
    ('9' * 5000, int, 'no JSON: Exceeds the limit'),
    ('null', dict, 'of type NoneType, not dict'),
    ('[1]', dict, 'of type list, not dict'),
    ('true', int, 'of type bool, not int'),
  ],
)
def test_damage_is_one_line(text, kind, reason):
  with pytest.raises(InputError, match=reason) as error:
    json_text.parse(text, kind)
  assert len(str(error.value).splitlines()) == 1
