"""What compiles a policy for whoever serves by it: whatever goes wrong is a refusal of that text."""

from __future__ import annotations

import pytest

from router import compiling
from router.compiling import compile_text, complaint
from router.policy import PolicyError

TEXT = 'edition 1\nregion fra { at 50 8 endpoint 192.0.2.1:1 }\nroute shop for "*" { primary fra }\n'


@pytest.mark.parametrize("mistake", [IndexError("tuple index out of range"), RecursionError("too deep"), MemoryError()])
def test_a_mistake_of_ours_refuses_the_version(mistake: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbling(_: object) -> None:
        raise mistake

    monkeypatch.setattr(compiling, "compile_policy", stumbling)
    with pytest.raises(PolicyError) as caught:
        compile_text(TEXT, "shop")
    assert caught.value.__cause__ is mistake
    assert str(caught.value).startswith("shop:1:1: E000: ")
    assert complaint(caught.value) == f"line 1: {type(mistake).__name__} while it was compiled: a mistake of ours"


def test_a_mistake_of_the_author_has_no_other_cause() -> None:
    with pytest.raises(PolicyError, match="edition") as caught:
        compile_text(TEXT.replace("edition 1", "edition 9"), "shop")
    assert caught.value.__cause__ is None
    assert compile_text(TEXT, "shop").routes[0].name == "shop"
