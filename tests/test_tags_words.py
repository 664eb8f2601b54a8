"""Words of comments: cutting, one form, kind."""

from __future__ import annotations

import pytest

from tmcr.tags.words import Names, american, analyse, is_english, lemma, lemmas, lexicon, normalise, singular, tokens


def words(text: str) -> list[str]:
    return [token.text for token in tokens(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog's nose, sharp!", ["the", "dog", "nose", "sharp"]),
        ("black-and-white / sepia", ["black", "and", "white", "sepia"]),
        ("don’t crop", ["don't", "crop"]),
        ("a &quot;soft&quot; look &amp; feel", ["a", "soft", "look", "feel"]),
        ("<b>bold</b> light<br/>here", ["bold", "light", "here"]),
        ("see http://example.com/a_b?c=d or www.example.org now", ["see", "or", "now"]),
        ("mail me@example.com please", ["mail", "please"]),
        ("love it 😍❤️ so much :-) :D", ["love", "it", "so", "much"]),
        ("f/2.8 at 50mm, 1/60s", ["f", "at"]),
        ("ﬁne ＬＩＧＨＴ", ["fine", "light"]),
        ("", []),
        ("!!! ... 123 🙂", []),
    ],
)
def test_words_are_cut_out(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_phrase_does_not_reach_over_punctuation_numbers_or_possessives() -> None:
    joined = [(token.text, token.joined) for token in tokens("soft light, dark sky 3 trees. the dog's nose")]
    assert [text for text, together in joined if not together] == ["soft", "dark", "trees", "the", "nose"]


def test_capitals_inside_a_sentence_are_told_from_those_at_its_beginning() -> None:
    found = {token.text: (token.capital, token.inside) for token in tokens("Nice, Anna! The DOF works. Berlin")}
    assert found["nice"] == (True, False)
    assert found["anna"] == (True, True)
    assert found["the"] == (True, False)
    assert found["dof"] == (False, True)  # an abbreviation, not a name
    assert found["berlin"] == (True, False)


def test_broken_html_costs_no_words() -> None:
    assert words("a < b and c > d") == ["a", "b", "and", "c", "d"]
    assert normalise("x" * 10 + "<" * 10_000).startswith("x")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("trees", "tree"), ("berries", "berry"), ("boxes", "box"), ("glass", "glass"), ("leaves", "leaf"),
        ("women", "woman"), ("tomatoes", "tomato"), ("shoes", "shoe"), ("ties", "tie"), ("focus", "focus"),
        ("canvas", "canvas"), ("highlights", "highlight"), ("benches", "bench"),
        ("colour", "color"), ("colours", "color"), ("colourful", "colorful"), ("favourite", "favorite"),
        ("centre", "center"), ("grey", "gray"), ("realised", "realize"), ("emphasis", "emphasis"),
        ("hour", "hour"), ("flour", "flour"), ("contour", "contour"), ("jewellery", "jewelry"),
        ("darker", "dark"), ("sharpest", "sharp"), ("bigger", "big"), ("busier", "busy"), ("wider", "wide"),
        ("corner", "corner"), ("forest", "forest"), ("interest", "interest"),
        ("cropped", "crop"), ("croped", "crop"), ("framed", "frame"), ("blurred", "blur"),
        ("lighting", "lighting"), ("stunning", "stunning"), ("café", "cafe"),
        ("compostion", "composition"),
    ],
)  # fmt: skip
def test_one_form_for_every_word(word: str, expected: str) -> None:
    assert lemma(word) == expected


def test_a_word_of_three_letters_keeps_its_s() -> None:
    assert [singular(word) for word in ("gas", "bus", "eyes", "yes")] == ["gas", "bus", "eye", "yes"]


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("content", "tree light sharp stunning overexposed lovely lighting crop dog moody bokeh friendly early"),
        ("function", "the very bit lol don't something thanks sure thing isn't"),
        ("verb", "think looks improved feel seemed chose"),
        ("adverb", "nicely slightly beautifully askew"),
        ("name", "photoshop nikon"),
    ],
)
def test_kinds(kind: str, examples: str) -> None:
    assert {word: analyse(word).kind for word in examples.split()} == dict.fromkeys(examples.split(), kind)


def test_a_phrase_keeps_all_its_words() -> None:
    assert lemmas("Depths of Field") == ("depth", "of", "field")
    assert lemmas("black-and-white") == lemmas("black and white")


def test_names_are_words_with_a_capital_inside_sentences_most_of_the_time() -> None:
    names = Names()
    names.add(tokens("I like what Tilda did. I think Tilda is great. The Rose is red, one rose, two rose."))
    names.add(tokens("At Christmas, this Christmas."))
    assert "tilda" in names
    assert "rose" not in names
    assert "christmas" not in names  # days and feasts are no names
    assert "great" not in names


@pytest.mark.parametrize(
    "text",
    [
        "I like the light in this one, but the crop is too tight",
        "Excellent subject, nice colors, great depth of field",
        "wow",
    ],
)
def test_english(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "Eine wunderbare Aufnahme mit schönem Licht und tollen Farben",
        "Une photo superbe avec une belle lumière du matin",
        "Me encanta la luz de esta foto y los colores del cielo",
        "Мне очень нравится свет и цвет на этой фотографии",
    ],
)
def test_other_languages(text: str) -> None:
    assert not is_english(text)


def test_the_lexicon_says_one_thing_of_a_word() -> None:
    words = lexicon().words
    kinds = ("verbs", "nounverbs", "keep", "names")
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            assert not words[one] & words[other], (one, other)
    for one in kinds[1:]:
        assert not words[one] & words["function"], one
    for name in ("verbs", "nounverbs", "keep", "comparatives", "praise words", "fault words", "neither"):
        assert [word for word in words[name] if american(word) != word] == [], name
    assert not words["praise words"] & words["fault words"]


@pytest.mark.parametrize("word", ["bed", "seed", "realistic", "stylish", "criticism", "analysis", "spoke"])
def test_words_that_only_look_like_forms_of_others_stay(word: str) -> None:
    assert analyse(word) == (word, "content")
