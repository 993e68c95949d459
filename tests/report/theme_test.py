"""Style and script hold nothing that could end their elements or leave the page."""

from aster_jax.report import theme


def test_nothing_ends_the_element_early():
    assert "<" not in theme.CSS
    assert "</" not in theme.JS and "<!--" not in theme.JS


def test_nothing_is_loaded_and_nothing_is_parsed_as_markup():
    assert "url(" not in theme.CSS and "@import" not in theme.CSS
    for name in ("innerHTML", "eval", "fetch", "document.write"):
        assert name not in theme.JS


def test_every_class_the_script_looks_for_is_styled():
    for name in (".filter", ".episode"):
        assert name in theme.CSS and name in theme.JS
