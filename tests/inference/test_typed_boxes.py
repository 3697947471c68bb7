"""Boxes typed on the command line."""

import pytest

from distilpose.errors import InputError
from distilpose.inference.people import read_boxes


def test_typed_boxes_are_four_numbers_or_the_name_of_a_file() -> None:
    boxes = read_boxes("10,20,300,400;1,2,3,4.5")
    assert boxes.tolist() == [[10, 20, 300, 400], [1, 2, 3, 4.5]]
    assert read_boxes("boxes.json") is None
    assert read_boxes("2024") is None
    with pytest.raises(InputError, match=r"X1,Y1,X2,Y2.*got '10,20,300': give four numbers"):
        read_boxes("10,20,300")
