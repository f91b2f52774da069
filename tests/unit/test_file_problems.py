from __future__ import annotations

from ckptrun.supervisor.problems import AT_ONCE, Problems


def test_a_problem_is_told_once():
    said: list[str] = []
    problems = Problems(said.append)
    problems.tell(["a is too large", "b cannot be read"])
    problems.tell(["b cannot be read", "c is a device", "c is a device"])
    assert said == ["a is too large", "b cannot be read", "c is a device"]


def test_of_a_great_many_the_first_are_told_and_the_others_counted():
    said: list[str] = []
    Problems(said.append).tell(str(number) for number in range(1000))
    assert said[:-1] == [str(number) for number in range(AT_ONCE - 1)]
    assert f"{1000 - AT_ONCE + 1} more files" in said[-1]


def test_as_many_as_can_be_read_are_all_told():
    said: list[str] = []
    Problems(said.append).tell(str(number) for number in range(AT_ONCE))
    assert len(said) == AT_ONCE
