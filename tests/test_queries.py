"""Queries: names, numbers and views; and the small facts that runs store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from losslake.collect.background import Background
from losslake.collect.queries import QUERIES, parse_queries, view
from losslake.collect.run_facts import available_cpus, choose_device, versions
from losslake.store.errors import InvalidOption


def test_names_in_any_form() -> None:
    assert parse_queries("flip, original", pictures=True) == ("original", "flip")
    assert parse_queries(["flip", "flip"], pictures=True) == ("flip",)
    assert parse_queries(None, pictures=True) == ("original", "flip")
    assert parse_queries(None, pictures=False) == ("original",)


@pytest.mark.parametrize(
    ("text", "pictures", "message"),
    [
        ("originl", True, "unknown query 'originl'. Did you mean 'original'"),
        ("flip", False, "for pictures"),
        ([], True, "no query"),
    ],
)
def test_names_that_do_not_fit(text: str | list[str], pictures: bool, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        parse_queries(text, pictures=pictures)


def test_views() -> None:
    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    assert torch.equal(view(x, "original"), x)
    assert np.array_equal(view(x, "flip").numpy(), x.numpy()[:, :, :, ::-1])
    assert QUERIES == {"original": 0, "flip": 1}, "numbers stand in lakes: they never change"


def test_devices_and_versions() -> None:
    assert choose_device("cpu").type == "cpu"
    for name in ("abacus", "cuda:99"):
        with pytest.raises(InvalidOption, match=name):
            choose_device(name)
    assert available_cpus() >= 1
    assert versions()["torch"] == torch.__version__


def test_background_keeps_order_and_passes_errors_on() -> None:
    done: list[int] = []
    background = Background("test")
    for number in range(20):
        background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    background.finish()
    assert done == list(range(20))

    def fail() -> None:
        raise ValueError("seven")

    background = Background("test")
    background.submit(fail)
    background.submit(lambda: done.append(-1))
    with pytest.raises(ValueError, match="seven"):
        background.finish()
    assert -1 not in done, "what follows a failure is not done"
    background.finish()  # told once
