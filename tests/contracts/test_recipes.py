"""Every calibration recipe and every method, also those added later, keeps the same promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import ConfigError, UnknownNameError
from toolchain.quantization.calibrate import ranges
from toolchain.quantization.ranges import METHODS, Observed
from toolchain.quantization.recipe import Recipe, list_recipes, load_recipe
from toolchain.quantization.rules import RULES

RNG = np.random.default_rng(0)
TENSORS = {
    "gauss": RNG.normal(0, 1, 4000),
    "one-sided": np.abs(RNG.normal(0, 1, 4000)),
    "negative": -np.abs(RNG.normal(3, 1, 4000)),
    "outlier": np.append(RNG.normal(0, 1, 4000), 1e4),
    "silu": (x := RNG.normal(0, 2, 4000)) / (1 + np.exp(-x)),
    "tiny": RNG.normal(0, 1e-20, 4000),
    "huge": RNG.normal(0, 1e20, 4000),
    "constant": np.full(100, 0.7),
    "zeros": np.zeros(100),
    "single": np.array([-2.5]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", TENSORS)
def test_every_method_gives_a_finite_ordered_range_with_zero(method: str, kind: str) -> None:
    seen = Observed(kind)
    for part in np.array_split(TENSORS[kind].astype(np.float32), min(4, TENSORS[kind].size)):
        seen.add(part)
    [(low, high)] = ranges({kind: seen}, method).values()
    assert np.isfinite([low, high]).all()
    assert low <= 0 <= high
    assert low < high or kind == "zeros"
    bin_width = 1e-3 * max(abs(seen.low), abs(seen.high))
    assert seen.low - bin_width <= low or low == 0, "no method invents values below what was seen"
    assert high <= seen.high + bin_width or high == 0


@pytest.mark.parametrize("method", METHODS)
def test_methods_depend_on_nothing_else(method: str) -> None:
    seen = Observed("gauss")
    seen.add(TENSORS["gauss"].astype(np.float32))
    assert ranges({"a": seen}, method) == {"a": ranges({"a": seen, "b": seen}, method)["b"]}


@pytest.mark.parametrize("name", list_recipes())
def test_recipe_is_complete(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.method in METHODS
    assert set(recipe.runtimes) <= set(RULES)
    assert recipe.images >= 100
    assert len(recipe.comment) > 10
    assert len(recipe.source) > 10


def test_every_method_and_every_runtime_has_a_recipe() -> None:
    recipes = [load_recipe(name) for name in list_recipes()]
    assert {recipe.method for recipe in recipes} == set(METHODS)
    assert {runtime for recipe in recipes for runtime in recipe.runtimes} == set(RULES)


GOOD = 'method = "minmax"\nimages = 8\nruntimes = ["tensorrt"]\ncomment = "mine"\nsource = "me"\n'


def test_adding_a_recipe_is_adding_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_recipe(path) == Recipe(method="minmax", images=8, runtimes=("tensorrt",), comment="mine", source="me")
    assert load_recipe(str(path)).seed == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "imagse = 3\n", "imagse"),
        (GOOD.replace('"minmax"', '"minmaks"'), "did you mean minmax"),
        (GOOD.replace("tensorrt", "tensort"), "did you mean tensorrt"),
        (GOOD.replace("= 8", "= 0"), "images"),
        (GOOD.replace("= 8", '= "many"'), "images"),
        (GOOD + "percentile = 99.9\n", "percentile"),
        (GOOD.replace('"minmax"', '"percentile"'), "percentile"),
        (GOOD.replace("runtimes", "#"), "runtimes"),
        ("method = \n", "TOML"),
    ],
)
def test_bad_recipes_name_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(path)
    assert "bad.toml" in str(caught.value)


def test_unknown_recipe_suggests(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean percentile"):
        load_recipe("percentille")
    with pytest.raises(UnknownNameError, match="absent"):
        load_recipe(tmp_path / "absent.toml")
