"""The embedding: deterministic, of length one, and close for texts that are alike."""

import math

from hypothesis import given
from hypothesis import strategies as st

from rumormill.cli.demo.embedding import DIMENSIONS, embed, similarity
from rumormill.cli.demo.sample_texts import SENTENCES


@given(st.text(max_size=200))
def test_any_text_has_a_vector_of_length_one_or_none_at_all(text: str) -> None:
    vector = embed(text)
    assert len(vector) == DIMENSIONS
    length = math.sqrt(sum(value * value for value in vector))
    assert length == 0.0 or abs(length - 1.0) < 1e-4


def test_known_numbers_do_not_move() -> None:
    vector = embed("Call me Ishmael.")
    places = [place for place, value in enumerate(vector) if value]
    assert (len(places), places[:6]) == (43, [15, 18, 25, 34, 37, 45])
    assert sorted({abs(value) for value in vector if value}) == [0.152499]


def test_only_letters_and_words_count() -> None:
    assert embed("Call me\n  ISHMAEL.") == embed("call me ishmael.")
    assert embed("") == embed(" \t\n") == [0.0] * DIMENSIONS


def test_alike_texts_lie_close_and_others_do_not() -> None:
    vectors = {text: embed(text) for text in SENTENCES}
    assert len({tuple(vector) for vector in vectors.values()}) == len(SENTENCES)
    for text, vector in vectors.items():
        changed = embed(text.replace("the", "a").replace("I ", "we "))
        others = [similarity(vector, other) for name, other in vectors.items() if name != text]
        assert similarity(vector, changed) > max(others)
    marley = [vector for text, vector in vectors.items() if "Marley" in text]
    assert similarity(*marley) > 0.2
