"""The collector is still while modules load, and as it was afterwards."""

import gc

import pytest

from deformgan.commands.startup import quick_imports


@pytest.mark.parametrize("running", [True, False])
def test_the_collector_is_held_still_and_goes_on_as_it_was(running: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() is running
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()


def test_the_collector_goes_on_after_a_failed_import() -> None:
    assert gc.isenabled()
    try:
        with pytest.raises(ImportError), quick_imports():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_what_is_made_afterwards_is_collected() -> None:
    class Node:
        alive = 0

        def __init__(self) -> None:
            self.self = self
            Node.alive += 1

        def __del__(self) -> None:
            Node.alive -= 1

    try:
        with quick_imports():
            pass
        Node()
        gc.collect()
        assert Node.alive == 0
    finally:
        gc.unfreeze()
