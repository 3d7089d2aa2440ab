"""`losslake.audit`: a finished model, its records and others in one call; and what it says, in the report's words."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from .store.errors import InvalidOption
from .store.format.outgoing import printable, spelled

if TYPE_CHECKING:
    from .analysis.gate.check import Verdict as RuleVerdict
    from .analysis.gate.rules import Compare
    from .analysis.report.data import Report
    from .analysis.report.words import Verdict
    from .api import Lake
    from .collect.progress import Progress
    from .store.files.filesystem import Files


@dataclass(frozen=True, repr=False)
class Gated:
    """What became of the limits of a gate, in order; true where every one is kept. Printed or shown it is a line a limit."""

    verdicts: tuple[RuleVerdict, ...]

    def __bool__(self) -> bool:
        from .analysis.gate.command import passed

        return passed(self.verdicts)

    def __str__(self) -> str:
        from .analysis.gate.command import gate_lines

        return "\n".join(map(printable, gate_lines(self.verdicts)))

    __repr__ = __str__


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What an audit found. Printed it is the verdict with its limits; a notebook shows the same with its figures.

    ``lake`` holds everything, as ``experiment`` with the run ``target``: SQL and every analysis go on from there. ``notes`` are
    sentences a reader must know. Unless the lake is ``kept`` it goes with the last who holds it.
    """

    lake: Lake
    experiment: str
    target: str
    notes: tuple[str, ...] = ()
    kept: bool = True

    @property
    def level(self) -> Literal["clear leak", "signs", "none found", "cannot tell"]:
        """The level of the verdict; docs/words.md tells the rules."""
        return self._report.judgement.level

    def scores(self, score: str | None = None) -> pl.DataFrame:
        """The score of every record: sample_id, key, label, member, score (higher = more exposed), and the analysis's own columns.

        ``score`` is a NAME or NAME[option=value,...] of ``losslake analyze list``; by default the attack that the verdict rests on.
        The key names a record: as it was given, or by its side and place, such as members/17. The label is its class's name or number, as text.
        """
        from .analysis.report.records import called_class

        found = self.lake.scores(score or self._attack, experiment=self.experiment, target=self.target)
        about = pl.DataFrame(self.lake.samples(self.experiment).select(["sample_id", "key", "label"]))
        # By name, as `exposed` has them: what is joined and compared must not be numbers here and names there.
        names = self.lake.experiment(self.experiment).dataset.get("classes")
        called = [called_class(names, label) for label in about["label"]]
        about = about.with_columns(pl.Series("label", called, pl.String))
        both = about.join(found, on="sample_id", how="right", maintain_order="right")
        return both.select(
            "sample_id", "key", "label", *(name for name in found.columns if name != "sample_id")
        )

    def metrics(self) -> pl.DataFrame:
        """AUC and TPR at low FPR of each attack with their 95% intervals: attack, metric, fpr, value, ci_low, ci_high, n."""
        rows = [
            {
                "attack": attack.scored.name,
                "metric": metric.metric,
                "fpr": metric.parameters.get("fpr"),
                "value": metric.value,
                "ci_low": metric.ci_low,
                "ci_high": metric.ci_high,
                "n": metric.n,
            }
            for attack in self._report.attacks
            for metric in (attack.auc, *attack.tprs)
        ]
        kinds = {"attack": pl.String, "metric": pl.String, "n": pl.Int64}
        numbers = dict.fromkeys(("fpr", "value", "ci_low", "ci_high"), pl.Float64)
        order = ("attack", "metric", "fpr", "value", "ci_low", "ci_high", "n")
        return pl.DataFrame(rows, schema={name: {**kinds, **numbers}[name] for name in order})

    def exposed(self, k: int = 10) -> pl.DataFrame:
        """The ``k`` members with the highest scores of the attack that the verdict rests on: sample_id, key, label, score.

        Where the verdict is that nobody is given away, chance explains the highest scores as well. The loss attack, on which it rests where there
        are neither shadow models nor losses after each epoch, is surest of easy records, seldom those most at risk.
        """
        from .analysis.report.records import exposed_table
        from .analysis.scoring.catalogue import open_source
        from .analysis.scoring.stored import keep_scores

        if k < 1:
            raise InvalidOption(f"k is {k}; it must be 1 or more")
        with open_source(self.lake, self.experiment, self.target) as source:
            return exposed_table(source, keep_scores(source, (self._attack,))[self._attack].scores, k)

    def report(self, out: str | Path = "report.html", *, pictures: bool = True) -> Path:
        """Write the report to a file, .html, .pdf, .png, .svg or .json as its name ends; the file.

        Without ``pictures`` it shows no record itself, neither a picture nor the columns of a frame.
        """
        return write_report_of(self, Path(out), pictures=pictures)

    def gate(
        self,
        *scores: str,
        max_tpr: float | None = None,
        at_fpr: float | None = None,
        max_auc: float | None = None,
        max_epsilon: float | None = None,
        delta: float | None = None,
        max_share_memorized: float | None = None,
        above: float | None = None,
        max_tail: float | None = None,
        compare: Compare = "upper",
    ) -> Gated:
        """Hold limits against the model, by ``scores`` (default: lira), as ``losslake analyze gate`` does; true where all are kept.

        By default the upper end of the 95% interval is what must keep a limit; what the data cannot tell is not kept.
        Without shadow models ``max_tail`` limits what the losses' tail lets expect of LiRA's rate at ``at_fpr``.
        """
        from .analysis.gate.check import check_rules
        from .analysis.gate.rules import rules_of
        from .analysis.scoring.catalogue import open_source

        rules = rules_of(
            scores,
            max_tpr=max_tpr,
            at_fpr=at_fpr,
            max_auc=max_auc,
            max_epsilon=max_epsilon,
            delta=delta,
            max_share_memorized=max_share_memorized,
            above=above,
            max_tail=max_tail,
            compare=compare,
        )
        if not rules:
            raise InvalidOption("there is no limit to hold; give one such as max_auc=0.6")
        with open_source(self.lake, self.experiment, self.target) as source:
            return Gated(check_rules(source, rules))

    def __str__(self) -> str:
        return verdict_of(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = self._verdict
        figures = "".join(
            f"<tr><td>{_html(one.name)}</td><td><strong>{_html(one.value)}</strong></td><td>{_html(one.interval)}</td>"
            f"<td>{_html(one.reading)}</td></tr>"
            for one in said.figures
        )
        limits = "".join(f"<li>{_html(one.name)}: {_html(one.text)}</li>" for one in said.trust)
        steps = "".join(f"<li>{_html(step.what)}</li>" for step in said.next_steps)
        notes = "".join(f"<p>note: {_html(note)}</p>" for note in self.notes)
        return (
            f"<div><p><strong>{_html(said.title)}</strong></p><p>{_html(said.text)}</p><table><tbody>{figures}</tbody></table>"
            f"<p>How far to trust it</p><ul>{limits}</ul><p>What to do</p><ul>{steps}</ul>{notes}</div>"
        )

    @property
    def _attack(self) -> str:
        judged = self._report.judgement
        if judged.attack is None:
            raise InvalidOption("no attack was made; name a score")
        return judged.attack.scored.name

    @cached_property
    def _report(self) -> Report:
        from .analysis.report.gather import gather

        return gather(self.lake, self.experiment, target=self.target, kept=self.kept)

    @cached_property
    def _verdict(self) -> Verdict:
        from .analysis.report.words import verdict

        return verdict(self._report)


def verdict_of(audit: Audit, as_options: Callable[[str], str] | None = None) -> str:
    """The verdict in lines; ``as_options`` says a sentence about arguments to somebody in a shell, who knows options."""
    from .analysis.report.words import verdict

    shell = as_options is not None
    said = verdict(replace(audit._report, shell=shell))
    # What weakens the numbers; what they do not cover where nothing does.
    limits = [one for one in said.trust if one.caution] or said.trust[:1]
    lines = [said.title, said.text]
    lines += [f"how far to trust it: {' '.join(f'{one.name}: {one.text}' for one in limits)}"]
    lines += [f"what to do: {step.what}" for step in said.next_steps[:1]]
    lines += [f"note: {as_options(note) if as_options else note}" for note in audit.notes]
    if audit.kept:
        lines += [f"kept in {audit.lake.path}, experiment {audit.experiment}, run {audit.target}"]
    elif shell:
        lines += ["not kept: with --lake NAME reports, analyses, SQL and more shadow models go on from there"]
    else:
        lines += [
            f"in a temporary lake, {audit.lake.path}, experiment {audit.experiment}, run {audit.target}; it goes with this Audit, and "
            'lake="audits" keeps it'
        ]
    return "\n".join(map(printable, lines))


def write_report_of(audit: Audit, out: Path, *, pictures: bool, shell: bool = False) -> Path:
    """Write the audit's report, its next steps in Python or in a ``shell``; the file."""
    from .analysis.report.write import write_report

    write_report(
        audit.lake,
        audit.experiment,
        out,
        target=audit.target,
        pictures=pictures,
        kept=audit.kept,
        shell=shell,
        notes=audit.notes,
    )
    return out


def _remove_temporary(files: Files, folder: str, pid: int) -> None:
    from .store.write.leases import give_back

    if os.getpid() != pid:  # a fork, whose parent has the lake
        return
    give_back(files)  # first, so that nobody writes it anew in the midst of it
    shutil.rmtree(folder, ignore_errors=True)


def _html(text: str) -> str:
    return escape(spelled(text))


def audit(
    model: Any,
    members: Any,
    nonmembers: Any,
    *,
    population: Any = None,
    shadows: int = 0,
    train: Callable[[Any, int], Any] | None = None,
    references: Sequence[Any] = (),
    lake: Any = None,
    experiment: str = "audit",
    run: str = "target",
    label: str = "label",
    key: str | None = None,
    group: str | None = None,
    features: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    output: Literal["logits", "probabilities"] | None = None,
    least_probability: float | None = None,
    overlap: Literal["refuse", "leave out"] = "refuse",
    batch_size: int = 512,
    forward: Callable[..., Any] | None = None,
    collate: Callable[..., Any] | None = None,
    tokenizer: Any = None,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Audit:
    """Ask a finished model about its records and others, keep the answers in a lake, and judge them; see `losslake.audit`."""
    from .api import Lake
    from .collect.audit.collect import collect_audit
    from .collect.progress import ProgressLines

    if isinstance(progress, bool):
        progress = ProgressLines("audit") if progress else None
    if lake is None:
        folder = tempfile.mkdtemp(prefix="losslake-audit-")
        opened = Lake.open(Path(folder) / "lake", create=True)
        # As long as somebody holds the lake, and no longer.
        weakref.finalize(opened, _remove_temporary, opened.files, folder, os.getpid())
    else:
        opened = lake if isinstance(lake, Lake) else Lake.open(getattr(lake, "path", lake), create=True)
    notes = collect_audit(
        opened, experiment, model, members, nonmembers, population=population, shadows=shadows, train=train,
        references=references, run=run, label=label, key=key, group=group, features=features, classes=classes,
        output=output, least_probability=least_probability, overlap=overlap, batch_size=batch_size, forward=forward,
        collate=collate, tokenizer=tokenizer, max_tokens=max_tokens, seed=seed, progress=progress,
    )  # fmt: skip
    found = Audit(opened, experiment, run, notes, kept=lake is not None)
    found.level  # noqa: B018  computed now, so that what cannot be judged is said by the call
    return found
