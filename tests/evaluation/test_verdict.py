"""The paired verdict against scipy, full enumeration, published numbers and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fledge.evaluation.verdict import Outcome, compare, detectable_difference, newcombe_paired, sign_flip_p

PAIRS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, *"abcdefghij"])), min_size=1, max_size=60
)
Pairs = list[tuple[bool, bool, str | None]]


def columns(drawn: Pairs) -> tuple[list[bool], list[bool], list[str | None]]:
    return [b for b, _, _ in drawn], [a for _, a, _ in drawn], [group for _, _, group in drawn]


def table(both: int, wins: int, losses: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [False] * wins + [True] * losses + [False] * neither
    after = [True] * both + [True] * wins + [False] * losses + [False] * neither
    return before, after


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 20))
def test_without_groups_the_p_is_exact_mcnemar(wins: int, losses: int, both: int) -> None:
    verdict = compare(*table(both, wins, losses, 1))
    oracle = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert verdict.p_value == pytest.approx(oracle, rel=1e-9)


@given(st.lists(st.integers(-6, 6), max_size=12))
def test_with_groups_the_p_is_full_enumeration(net: list[int]) -> None:
    flips = itertools.product((-1, 1), repeat=len(net))
    reached = [abs(sum(s * n for s, n in zip(signs, net, strict=True))) >= abs(sum(net)) for signs in flips]
    assert sign_flip_p(np.array(net, dtype=np.int64)) == pytest.approx(sum(reached) / len(reached), abs=1e-12)


def test_thousands_of_rows_take_no_time_and_no_sampling() -> None:
    net = np.repeat(np.array([1, -1]), [2_600, 2_400])
    assert sign_flip_p(net) == pytest.approx(stats.binomtest(2_600, 5_000).pvalue, rel=1e-6)


def test_newcombe_interval_equals_the_published_example() -> None:
    """Newcombe 1998: 36 both, 12 and 2 discordant, 0 neither; method 10 gives 0.0569 to 0.3404."""
    before, after = (np.array(side) for side in table(36, 12, 2, 0))
    assert newcombe_paired(before, after, 50) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_newcombe_interval_equals_its_formula_in_counts(a: int, b: int, c: int, d: int) -> None:
    """Method 10 as printed: counts a both, b and c discordant, d neither; scipy gives the Wilson limits."""
    num = a + b + c + d
    (l1, u1), (l2, u2) = (stats.binomtest(k, num).proportion_ci(0.95, method="wilson") for k in (a + b, a + c))
    p1, p2, product = (a + b) / num, (a + c) / num, (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross = max(cross - num / 2, 0) if cross > 0 else cross
    phi = cross / product**0.5 if product else 0.0
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    before, after = (np.array(side) for side in table(a, b, c, d))
    assert newcombe_paired(before, after, num) == pytest.approx((p1 - p2 - below**0.5, p1 - p2 + above**0.5), abs=1e-9)


@given(PAIRS)
def test_swapping_the_models_mirrors_the_verdict(drawn: Pairs) -> None:
    before, after, groups = columns(drawn)
    there, back = compare(before, after, groups=groups), compare(after, before, groups=groups)
    assert back.p_value == pytest.approx(there.p_value)
    assert (back.wins, back.losses, back.difference) == (there.losses, there.wins, -there.difference)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-12)
    mirrored = {Outcome.BETTER: Outcome.WORSE, Outcome.WORSE: Outcome.BETTER}
    if there.outcome in mirrored:
        assert back.outcome is mirrored[there.outcome]


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(drawn: Pairs, random: object) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = (compare(b, a, groups=g) for b, a, g in map(columns, (drawn, shuffled)))
    assert (one.outcome, one.wins, one.losses, one.why) == (two.outcome, two.wins, two.losses, two.why)
    assert one.p_value == pytest.approx(two.p_value)


@given(PAIRS)
def test_outcome_p_value_and_interval_agree(drawn: Pairs) -> None:
    before, after, groups = columns(drawn)
    verdict = compare(before, after, groups=groups)
    assert (verdict.p_value < 0.05) == (verdict.outcome in (Outcome.BETTER, Outcome.WORSE))
    assert -1 <= verdict.interval[0] <= verdict.difference <= verdict.interval[1] <= 1
    assert (verdict.rows, verdict.difference) == (len(drawn), (verdict.wins - verdict.losses) / len(drawn))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([None, *"abcdefg"])), min_size=1, max_size=14))
def test_too_few_rows_means_that_no_answer_could_have_decided(drawn: list[tuple[bool, str | None]]) -> None:
    before, groups = [b for b, _ in drawn], [group for _, group in drawn]
    extremes = [compare(before, [value] * len(before), groups=groups) for value in (True, False)]
    too_few = compare(before, before, groups=groups).outcome is Outcome.TOO_FEW_ROWS
    assert too_few == all(extreme.p_value >= 0.05 for extreme in extremes)
    assert all((extreme.outcome is Outcome.TOO_FEW_ROWS) == too_few for extreme in extremes)


def test_eleven_rows_are_never_too_few_and_ten_can_be() -> None:
    for right in range(12):
        assert compare([True] * right + [False] * (11 - right), [True] * 11).outcome is not Outcome.TOO_FEW_ROWS
    assert compare([True, False] * 5, [True] * 10).outcome is Outcome.TOO_FEW_ROWS
    assert compare([], []).outcome is Outcome.TOO_FEW_ROWS


def test_why_says_it_in_plain_words() -> None:
    better = compare(*table(10, 14, 2, 24))
    assert better.why.startswith("24 points better on 50 rows (14 won, 2 lost, p = 0.0042)")
    same = compare(*table(20, 3, 2, 25))
    assert same.outcome is Outcome.SAME
    assert "No difference could be shown with 50 rows (3 won, 2 lost, p = 1)" in same.why
    assert "a difference of about 16 points would have been found" in same.why
    assert "harder rows would tell more" in compare(*table(49, 1, 0, 0)).why
    assert "Too few to tell (5 rows)" in compare([False] * 5, [True] * 5).why
    grouped = compare([False] * 12, [True] * 12, groups=[str(i // 3) for i in range(12)])
    assert grouped.outcome is Outcome.TOO_FEW_ROWS
    assert "Too few to tell (12 rows in 4 groups)" in grouped.why


@pytest.mark.parametrize(("discordant", "num"), [(0.1, 50), (0.2, 100), (0.1, 200), (0.3, 300)])
def test_the_detectable_difference_is_found_in_four_tries_of_five(discordant: float, num: int) -> None:
    difference = detectable_difference(discordant, num)
    wins = (max(discordant, difference) + difference) / 2
    rng, found = np.random.default_rng(7), 0
    for won, lost, _ in rng.multinomial(num, [wins, wins - difference, 1 - 2 * wins + difference], size=1_000):
        found += stats.binomtest(int(won), int(won + lost)).pvalue < 0.05 if won + lost else 0
    assert 0.74 <= found / 1_000 <= 0.86


Flags = npt.NDArray[np.bool_]


def simulated(
    rng: np.random.Generator, shares: tuple[float, float], *, num_groups: int, size: int, alike: float
) -> tuple[Flags, Flags, list[str]]:
    """Two models' answers; rows of a group correlate with `alike` within each model (beta-binomial)."""
    concentration = (1 - alike) / alike
    group_R = np.repeat(np.arange(num_groups), size)
    before, after = (
        rng.random(group_R.size) < rng.beta(p * concentration, (1 - p) * concentration, num_groups)[group_R]
        for p in shares
    )
    return before, after, [str(group) for group in group_R]


LAYOUTS = [(100, 1, 0.5), (12, 5, 0.5), (30, 4, 0.3), (50, 3, 0.8)]


def false_alarms(num_groups: int, size: int, alike: float, *, grouped: bool) -> float:
    """The share of 1,000 pairs of equally good models that are told apart."""
    rng, alarms = np.random.default_rng(11), 0
    for _ in range(1_000):
        before, after, groups = simulated(rng, (0.6, 0.6), num_groups=num_groups, size=size, alike=alike)
        alarms += compare(before.tolist(), after.tolist(), groups=groups if grouped else None).p_value < 0.05
    return alarms / 1_000


@pytest.mark.parametrize(("num_groups", "size", "alike"), LAYOUTS)
def test_equal_models_are_told_apart_in_at_most_5_of_100(num_groups: int, size: int, alike: float) -> None:
    assert false_alarms(num_groups, size, alike, grouped=True) <= 0.065  # 0.05 and two standard errors


@pytest.mark.parametrize(("num_groups", "size", "alike"), LAYOUTS[1:])
def test_negative_control_a_test_that_ignores_groups_cries_wolf(num_groups: int, size: int, alike: float) -> None:
    assert false_alarms(num_groups, size, alike, grouped=False) > 0.10


@pytest.mark.parametrize("shares", [(0.3, 0.3), (0.3, 0.6), (0.85, 0.95)])
@pytest.mark.parametrize(("num_groups", "size", "alike"), [(100, 1, 0.5), (30, 4, 0.3), (50, 3, 0.8)])
def test_the_interval_holds_the_true_difference(
    shares: tuple[float, float], num_groups: int, size: int, alike: float
) -> None:
    rng, held = np.random.default_rng(13), 0
    for _ in range(1_000):
        before, after, groups = simulated(rng, shares, num_groups=num_groups, size=size, alike=alike)
        low, high = compare(before.tolist(), after.tolist(), groups=groups).interval
        held += low <= shares[1] - shares[0] <= high
    assert 0.92 <= held / 1_000 <= 0.98
