"""Which pictures a run's report shows, and what is written above them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.scripts import _report_pictures as draw
from understudy.scripts._report_pictures import Picture
from understudy.scripts._summary import Summary, summarise

_Panels = list[tuple[str, Sequence[str]]]
_RL_PANELS: _Panels = [
    ("Mean return while training", ("rollout/ep_rew_mean",)),
    ("Episode length", ("rollout/ep_len_mean",)),
]
_PRETRAIN_PANELS: _Panels = [("Loss while cloning", ("pretrain/train_loss", "pretrain/validation_loss"))]


def pictures_of(
    config: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    rows: Sequence[Summary],
) -> list[Picture]:
    """Returns, learning curves, action error and actions, as far as the run got.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    drawn = [*_returns(results, rows), *_rounds(results, rows), *_learning(config, metrics, results)]
    error, actions = results.get("action_error"), results.get("actions")
    measured_on = str(error["measured_on"]) if error else ""
    if error:
        where = "the expert’s observations" if error["against"] == "expert" else "the recorded observations"
        caption = (
            f"How far the clone’s action is from the recorded one at each time step, over {error['measured_on']}; the "
            f"band is a 95\u00a0% interval over episodes. It is measured on {where}: small here with low returns means "
            "that the clone drifts off the demonstrations."
        )
        drawn.append(
            _for_both("Action error by time step", caption, lambda w: draw.error_by_step(error, error["unit"], w))
        )
    if actions and actions["kind"] == "confusion":
        caption = f"Rows: what was recorded; columns: what the clone does there. {_capital(measured_on)}."
        svg = draw.confusion(actions["labels"], actions["counts"])
        drawn.append(Picture("Actions", caption, svg, wide=False))
    elif actions:
        caption = (
            f"{len(actions['recorded'])} actions of {measured_on}: recorded, and what the clone does there. On "
            "the dashed line both agree."
        )
        svg = draw.scatter(actions["recorded"], actions["predicted"])
        drawn.append(Picture("Actions", caption, svg, wide=len(actions["recorded"][0]) > 1))
    return drawn


def _returns(results: Mapping[str, Any], rows: Sequence[Summary]) -> list[Picture]:
    if not rows:
        return []
    returns = {row.name: results["returns"][row.name]["returns"] for row in rows}
    intervals = {row.name: (row.iqm.point, row.iqm.low, row.iqm.high) for row in rows}
    caption = "One dot an episode. The ring is the interquartile mean (IQM), the bar its 95\u00a0% interval."
    return [_for_both("Returns", caption, lambda width: draw.return_strips(returns, intervals, width))]


def _rounds(results: Mapping[str, Any], rows: Sequence[Summary]) -> list[Picture]:
    """The clone's returns after each round of DAgger."""
    kept = results.get("rounds") or []
    if len(kept) < 2:
        return []
    after = [summarise("clone", each["returns"], [0]).iqm for each in kept]
    curve = {
        "steps": [each["steps"] for each in kept],
        "point": [each.point for each in after],
        "low": [each.low for each in after],
        "high": [each.high for each in after],
        "mixture": [each["mixture"] for each in kept],
    }
    level = next((row.iqm.point for row in rows if row.name == "expert"), None)
    caption = (
        f"The clone after each round, {len(kept[0]['returns'])} episodes each: interquartile mean with its 95\u00a0% "
        "interval. Crosses are mean returns of the mixture of expert and clone that collected the round"
        + ("; the dashed line is the expert." if level is not None else ".")
    )
    return [_for_both("Returns by round", caption, lambda width: draw.returns_by_round(curve, level, width))]


def _learning(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
) -> list[Picture]:
    if config["verb"] == "train rl":
        panels, unit = _RL_PANELS, "a step is a step of the environment"
    elif config["verb"] == "pretrain":
        panels, unit = [*_PRETRAIN_PANELS, *_RL_PANELS], "a step is an epoch while cloning, then one of the environment"
    else:
        if config["verb"] == "train dagger":
            metrics = _over_rounds(metrics)
        metrics, unit = _with_validation(metrics, results.get("validation")), "a step is a minibatch update"
        panels = _cloning_panels(metrics, str(config.get("spaces", {}).get("action", "")).startswith("Box"))
    if draw.learning_curves(metrics, panels) is None:
        return []
    caption = f"What was logged while training; {unit}."
    return [_for_both("Learning", caption, lambda width: draw.learning_curves(metrics, panels, width) or "")]


def _over_rounds(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Updates counted on from round to round; each round's own count begins at 0."""
    lines: list[Mapping[str, Any]] = []
    before = last = 0
    for line in metrics:
        batch = int(line.get("bc/batch") or 0)
        if batch < last:
            before += last
        last = batch
        lines.append({**line, "bc/batch": before + batch})
    return lines


def _cloning_panels(metrics: Sequence[Mapping[str, Any]], continuous: bool) -> _Panels:
    """The loss has a panel only where its other terms make it look unlike the likelihood's."""
    probability = "Probability density" if continuous else "Probability"
    panels: _Panels = [
        ("Negative log-likelihood", ("bc/neglogp", "bc/validation_neglogp")),
        (f"{probability} of the recorded action", ("bc/prob_true_act",)),
    ]
    pairs = [(m["bc/loss"], m["bc/neglogp"]) for m in metrics if None not in (m.get("bc/loss"), m.get("bc/neglogp"))]
    likelihoods = [likelihood for _, likelihood in pairs]
    if pairs and max(abs(a - b) for a, b in pairs) > 0.03 * (max(likelihoods) - min(likelihoods)):
        panels.insert(0, ("Loss", ("bc/loss",)))
    return panels


def _with_validation(
    metrics: Sequence[Mapping[str, Any]], validation: Mapping[str, Any] | None
) -> Sequence[Mapping[str, Any]]:
    """Every epoch's validation where the epoch ended; the log has it with the next logged batch, or not at all."""
    if not validation:
        return metrics
    key = "bc/validation_neglogp"
    logged = [{name: value for name, value in line.items() if name != key} for line in metrics]
    ends = [(i + 1) * validation["batches_an_epoch"] for i in range(len(validation["neglogp"]))]
    measured = zip(ends, validation["neglogp"], strict=True)
    return [*logged, *({"step": end, "bc/batch": end, key: value} for end, value in measured)]


def _for_both(title: str, caption: str, picture: Callable[[float], str]) -> Picture:
    """Drawn once for a page and once for a phone."""
    return Picture(title, caption, picture(draw.WIDE), narrow_svg=picture(draw.NARROW))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
