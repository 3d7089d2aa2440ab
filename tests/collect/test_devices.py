"""Devices that are no CUDA ones: asked for by name, refused where they are not here, their random streams kept.

No such device is at hand: what torch would say of one is put in its place.
"""

from __future__ import annotations

import types

import pytest
import torch
from losslake.collect.random_streams import seeded, undisturbed_randomness
from losslake.collect.run_facts import choose_device, device_name
from losslake.store.errors import InvalidOption


@pytest.fixture
def accelerator(monkeypatch, request):
    """Let torch see two devices of a kind."""
    kind = request.param
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    return kind


@pytest.mark.parametrize("accelerator", ["cuda", "xpu", "mps"], indirect=True)
def test_a_device_is_found_by_its_name_and_no_other_is(accelerator):
    assert choose_device(accelerator).type == accelerator
    assert choose_device(f"{accelerator}:1").index == 1
    with pytest.raises(InvalidOption, match=rf"device '{accelerator}:2' is not here \(2 of its kind\)"):
        choose_device(f"{accelerator}:2")
    other = "mps" if accelerator != "mps" else "xpu"
    with pytest.raises(InvalidOption, match=rf"device '{other}' is not here \(0 of its kind\)"):
        choose_device(other)


def test_what_cannot_train_is_refused():
    """torch knows devices that hold no values, or that no accelerator of this machine is."""
    for name in ("meta", "hpu", "xpu", "mps"):
        if torch.accelerator.is_available() and torch.accelerator.current_accelerator().type == name:
            continue
        with pytest.raises(InvalidOption, match=f"device '{name}' is not here"):
            choose_device(name)


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda"])
@pytest.mark.parametrize("block", [lambda device: seeded(device, 3), undisturbed_randomness])
def test_the_stream_of_a_device_is_as_it_was_after_a_block(monkeypatch, kind, block):
    """What a block draws on the device is forgotten, also where it fails; the module of MPS names no device."""
    state = [torch.tensor([7])]

    def get(*device):
        assert len(device) == (0 if kind == "mps" else 1)
        return state[-1]

    def set_(value, *device):
        assert len(device) == (0 if kind == "mps" else 1)
        state.append(value)

    module = types.SimpleNamespace(get_rng_state=get, set_rng_state=set_, get_device_name=lambda _: "Arc")
    monkeypatch.setattr(torch, kind, module)
    monkeypatch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
    before = torch.get_rng_state()

    def draw_and_fail():
        with block(torch.device(kind)):
            state.append(torch.tensor([8]))
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert state[-1].item() == 7
    assert torch.equal(torch.get_rng_state(), before)
    assert device_name(torch.device(kind)) == ("mps" if kind == "mps" else "Arc")
