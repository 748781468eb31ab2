from __future__ import annotations

import html.parser
import re
import sys
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from understudy.scripts import _report, _report_choice, _summary

_CONFIG: dict[str, Any] = {
    "verb": "train bc",
    "command": "understudy train bc <b>&",
    "status": "finished",
    "started": "2026-01-01T12:00:00+00:00",
    "wall_clock_seconds": 75.0,
    "seed": 3,
    "options": {"environment": {"env_id": "<script>alert(1)</script>"}, "cloning": {"normalize": True, "lr": None}},
    "versions": {"understudy": "0.1.0"},
    "hardware": {"accelerators": []},
    "git": {"commit": "abc", "changed": True},
    "data": {"sha256": "d1ce", "episodes": 2, "transitions": 1200, "source": "expert"},
}


def _row(returns: list[float]) -> dict[str, Any]:
    return {"returns": returns, "lengths": returns, "truncated": [False] * len(returns)}


def _results(kind: str) -> dict[str, Any]:
    curve = {"steps": [0.0, 1.0], "mean": [0.1, 0.2], "low": [0.0, None], "high": [0.2, None]}
    actions: dict[str, dict[str, Any]] = {
        "confusion": {"kind": "confusion", "labels": ["0", "1"], "counts": [[5, 1], [0, 4]]},
        "many": {"kind": "confusion", "labels": [str(i) for i in range(13)], "counts": np.eye(13).tolist()},
        "scatter": {"kind": "scatter", "recorded": [[0.0], [1.0]], "predicted": [[0.1], [0.9]]},
        "wide": {"kind": "scatter", "recorded": [[0.0] * 6, [1.0] * 6], "predicted": [[0.1] * 6, [0.9] * 6]},
    }
    return {
        "returns": {"random": _row([1.0, 2.0]), "expert": _row([9.0, 9.0]), "clone": _row([9.0, 9.0])},
        "action_error": {
            "unit": "share of actions that differ",
            "against": "expert",
            "measured_on": "2 fresh expert episodes",
            "overall": 0.1,
            **curve,
        },
        "actions": actions[kind],
        "training_seconds": 1.0,
    }


_METRICS = [{"step": i, "bc/batch": 10 * i, "bc/loss": 1 / (i + 1), "bc/neglogp": 1.0} for i in range(5)]


class _Page(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href"):
                self.urls.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("kind", ["confusion", "many", "scatter", "wide"])
def test_the_page_is_self_contained_and_well_formed(kind: str) -> None:
    source = _report.build_report(_CONFIG, _METRICS, _results(kind))
    page = _Page(source)
    assert page.tags.count("svg") == 7  # three of the four pictures are drawn for a phone as well
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(url.startswith("#") for url in page.urls)
    assert "url(http" not in source
    assert len(page.ids) == len(set(page.ids))
    assert {url[1:] for url in page.urls} <= set(page.ids)
    for svg in re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL):
        ET.fromstring(svg)  # parses as XML
    assert "prefers-color-scheme: dark" in source
    assert "#0102" not in source  # every drawing colour became a colour of the page


def test_every_text_is_escaped() -> None:
    source = _report.build_report(_CONFIG, _METRICS, _results("confusion"))
    assert "<script>" not in source
    assert "&lt;script&gt;alert(1)" in source
    assert "understudy train bc &lt;b&gt;&amp;" in source


def test_what_a_reader_needs_to_repeat_the_run_is_on_the_page() -> None:
    text = _Page(_report.build_report(_CONFIG, _METRICS, _results("confusion"))).text
    for fact in ("d1ce", "abc with changes", "1 min 15 s", "0.1.0", "90.0 %", "1\u202f200 actions"):
        assert fact in text


def test_the_same_run_gives_the_same_page() -> None:
    pages = {_report.build_report(_CONFIG, _METRICS, _results("scatter")) for _ in range(2)}
    assert len(pages) == 1


def test_without_matplotlib_the_tables_stay_and_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = _Page(_report.build_report(_CONFIG, _METRICS, _results("confusion")))
    assert "svg" not in page.tags
    assert "understudy[plots]" in page.text
    assert "Returns in numbers" in page.text


def test_an_interrupted_run_without_results_has_a_page() -> None:
    page = _Page(_report.build_report({**_CONFIG, "status": "interrupted"}, [], {}))
    assert "interrupted" in page.text
    assert "svg" not in page.tags


def test_single_episodes_have_no_interval() -> None:
    results = {"returns": {"random": _row([1.0]), "clone": _row([2.0])}}
    text = _Page(_report.build_report(_CONFIG, [], results)).text
    assert "needs 2 episodes" in text


def _summaries(**returns: list[float]) -> list[_summary.Summary]:
    return [_summary.summarise(name, values, values) for name, values in returns.items()]


def test_the_verdict_says_what_the_intervals_allow() -> None:
    equal = _report.verdict(_summaries(random=[1.0, 1.0], expert=[9.0, 9.0], clone=[9.0, 9.0]))
    assert equal == "The clone earns 9, as much as its expert. Random actions earn 1."
    assert "less than its expert (9)" in _report.verdict(_summaries(expert=[9.0, 9.0], clone=[8.0, 8.0]))
    more = _report.verdict(_summaries(demonstrations=[9.0, 9.0], clone=[10.0, 10.0]))
    assert "more than its demonstrations (9)" in more
    assert "overlap" in _report.verdict(_summaries(expert=[8.0, 10.0], clone=[7.0, 10.0]))
    assert _report.verdict(_summaries(clone=[9.0, 9.0])) == "The clone earns 9 an episode."
    assert _report.verdict(_summaries(random=[1.0, 1.0], policy=[5.0, 5.0])) == "The policy earns 5 an episode."
    assert _report.verdict([]) == ""


def test_the_verdict_compares_with_nobody_who_did_not_demonstrate() -> None:
    rows = _summaries(**{"random": [1.0, 1.0], "bundled expert": [9.0, 9.0], "clone": [8.0, 8.0]})
    assert _report.verdict(rows) == "The clone earns 8 an episode. Random actions earn 1."


def test_few_episodes_are_warned_of() -> None:
    text = _Page(_report.build_report(_CONFIG, _METRICS, _results("confusion"))).text
    assert "Fewer than 10 episodes (random: 2, expert: 2, clone: 2)" in text
    assert _summary.few_episodes(_summaries(clone=[1.0] * 10)) == []


def _titles(metrics: list[dict[str, Any]], action_space: str = "Discrete(2)", **results: Any) -> str:
    return _report.build_report({**_CONFIG, "spaces": {"action": action_space}}, metrics, results)


def test_the_loss_is_drawn_where_it_differs_from_the_likelihood() -> None:
    same = [{"step": i, "bc/loss": 1 / (i + 1) + 1e-4, "bc/neglogp": 1 / (i + 1)} for i in range(5)]
    assert "Negative log-likelihood" in _titles(same)
    assert ">Loss<" not in _titles(same)
    assert ">Loss<" in _titles([{**line, "bc/loss": line["bc/loss"] + 0.5} for line in same])


def test_the_likelihood_of_a_continuous_action_is_called_a_density() -> None:
    metrics = [{"step": i, "bc/prob_true_act": 1.5} for i in range(5)]
    assert "Probability density of the recorded action" in _titles(metrics, "Box(-2.0, 2.0, (1,), float32)")
    assert "Probability of the recorded action" in _titles(metrics)


def test_every_epochs_validation_is_drawn_the_last_one_too() -> None:
    validation = {"neglogp": [0.5, 0.25, 0.125], "best_epoch": 2, "batches_an_epoch": 7}
    metrics = [{"step": 1, "bc/batch": 10, "bc/neglogp": 1.0, "bc/validation_neglogp": 0.5}]
    drawn = _report_choice._with_validation(metrics, validation)
    points = [(line["bc/batch"], line["bc/validation_neglogp"]) for line in drawn if "bc/validation_neglogp" in line]
    assert points == [(7, 0.5), (14, 0.25), (21, 0.125)]


def test_settings_show_what_stood_for_open_options() -> None:
    config = {**_CONFIG, "used": {"cloning": {"lr": 0.001}}}
    assert "0.001" in _Page(_report.build_report(config, [], {})).text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (500.0, "500"),
        (497.25, "497.2"),
        (0.01423, "0.0142"),
        (-1432.4, "−1\u202f432"),
        (0.0, "0"),
        (float("nan"), "–"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert _summary.number(value) == text
