"""The report on a detector: which protocol, how well per outlier set, and what the norms look like layer by
layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradfast.detectors.evaluation import ALL_SETS, AS_SAVED, LEFT_OUT, NO_OUTLIERS, SAME_SET, Outcome
from gradfast.report.figures import NormProfile, layer_norms, roc_curves, score_histograms
from gradfast.report.page import FigureBlock, Gallery, Page
from gradfast.report.tables import ResultTable, metric_table

__all__ = ["detection_page", "protocol_tables"]

_TITLES = {
    SAME_SET: "Outliers of the tested kind seen",
    ALL_SETS: "Outliers of every kind seen",
    LEFT_OUT: "Tested kind never seen (leave one set out)",
    AS_SAVED: "The detector as saved",
    NO_OUTLIERS: "No outliers seen",
}
_NOTES = {
    SAME_SET: "The classifier H of Purview was trained on one part of the very outlier set that it is tested on"
    " (other images, same kind), as in Lee et al. (IEEE Access 2023). It is told what to look for: read it as an"
    " upper end.",
    ALL_SETS: "The classifier H of Purview was trained on one part of every outlier set, the tested one among"
    " them, and is tested on the other parts.",
    LEFT_OUT: "H was trained on parts of all the other outlier sets and has seen nothing of the kind that it is"
    " tested on. This is what to expect of an outlier that nobody thought of.",
    AS_SAVED: "Tested on all samples of these sets. If it was fitted to any of them, the figures are too good.",
    NO_OUTLIERS: "No method here was fitted to outliers.",
}


def protocol_tables(outcomes: Sequence[Outcome]) -> list[ResultTable]:
    """One table per protocol, never mixed; methods that see no outliers stand in each, to compare with."""
    present = {outcome.protocol for outcome in outcomes}
    learning = [protocol for protocol in _TITLES if protocol in present and protocol != NO_OUTLIERS]
    tables = []
    for protocol in learning or [NO_OUTLIERS]:
        shown = [outcome for outcome in outcomes if outcome.protocol == protocol]
        note = _NOTES[protocol]
        if protocol != NO_OUTLIERS and NO_OUTLIERS in present:
            shown += [outcome for outcome in outcomes if outcome.protocol == NO_OUTLIERS]
            note += " Maximum softmax sees no outliers."
        tables.append(metric_table(_TITLES[protocol], shown, (note,)))
    return tables


def detection_page(
    title: str,
    lead: Sequence[str],
    outcomes: Sequence[Outcome],
    norms: NormProfile,
    *,
    shown_method: str,
    gallery: Gallery | None = None,
    facts: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> Page:
    """A page of `outcomes`: tables per protocol, histograms of `shown_method`, ROC curves of all, and
    `norms`.
    """
    main = [outcome for outcome in outcomes if outcome.protocol != LEFT_OUT]
    histograms = [outcome for outcome in main if outcome.method == shown_method]
    curves = [
        sorted(
            (outcome for outcome in main if outcome.out_set == shown.out_set),
            key=lambda outcome: (outcome.protocol == NO_OUTLIERS, outcome.method != shown_method),
        )
        for shown in histograms
    ]
    tested = "tested samples" + (" of the first split" if len(main[0].splits) > 1 else "")
    figures = (
        FigureBlock(
            "Scores",
            f"{shown_method}, {tested}. The less the two colours overlap, the better.",
            score_histograms(histograms),
        ),
        FigureBlock(
            "ROC curves",
            f"All methods, {tested}, each with its area. Up and to the left is better.",
            roc_curves(curves),
        ),
        FigureBlock(
            "Gradient norms, layer by layer",
            f"{norms.what}: medians over all samples of a set. A sample that the model does not know asks for"
            " another change of its weights than those that it knows; where a line leaves the blue band, that"
            " layer alone tells most of the set apart.",
            layer_norms(norms),
        ),
    )
    return Page(title, lead, outcomes, protocol_tables(outcomes), figures, gallery, facts, command)
