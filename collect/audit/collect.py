"""An audit's experiment in a lake: the records, the target's answers, shadow and reference models; as an import would have written them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...store.errors import AlreadyExists, InvalidInput
from ...store.format.records import Role
from ...store.lake import Lake
from ...store.upkeep.remove import unused_removed
from ..estimators.fitting import Train, parameters, trained, trainer_of
from ..estimators.logits import Output
from ..experiment.membership import design_members
from ..fleet.design import Block, derived, lay_down, numbered
from ..importers.runs import GivenRun, import_runs
from ..progress import Progress, Silent
from .answers import Said, is_module, way_of
from .columns import Columns
from .dependence import (
    REMEDY,
    Shadow,
    agreement,
    check_another,
    check_depends,
    digest_of,
    is_constant,
    is_telling,
)
from .language_model import language_model
from .options import check_options
from .records import check_alike, read_records
from .said import classifier_subject
from .same import Overlap, distinct
from .shadows import (
    FLEET,
    check_made_alike,
    made_by,
    maker_of,
    members_of_all,
)

_SEEDS = 17
_FEWER = 0.75
"""How far apart the numbers of records that target and shadow models are trained on may be before a note says it."""


def collect_audit(
    lake: Lake,
    experiment: str,
    model: Any,
    members: Any,
    nonmembers: Any,
    *,
    population: Any = None,
    shadows: int = 0,
    train: Train | None = None,
    references: Sequence[Any] = (),
    run: str = "target",
    label: str = "label",
    key: str | None = None,
    group: str | None = None,
    features: str | Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
    output: Output | None = None,
    least_probability: float | None = None,
    overlap: Overlap = "refuse",
    batch_size: int = 512,
    forward: Callable[..., Any] | None = None,
    collate: Callable[..., Any] | None = None,
    tokenizer: Any = None,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Ask the model about all records, fit shadow models, and write it all as runs of an experiment; sentences a reader must know.

    The arguments are told in `losslake.audit`. Shadow models that the lake holds already are not fitted again; the target is
    asked again, and AlreadyExists says where it gives other answers than the lake has. Raises InvalidInput, InvalidOption.
    """
    check_options(locals())
    asked_for = shadows
    how: dict[str, Any] = {"output": output, "batch_size": batch_size, "forward": forward, "collate": collate}
    speaks = language_model(
        model, tokenizer, max_tokens, classes=classes, least_probability=least_probability, **how
    )
    if speaks is None:
        way = way_of(model, classes=classes, **how)
        if way.classes is not None and len(way.classes) < 2:
            raise InvalidInput(
                f"{way.name} knows one class only, {', '.join(map(repr, way.classes))}: whatever it is asked it says the same, and nothing can "
                "be told"
            )
    fit = trainer_of(model, train) if shadows else None
    maker = maker_of(model, train) if train is not None or hasattr(model, "get_params") else None
    check_made_alike(lake, experiment, maker, seed if shadows else None)
    columns = Columns(label, key, group, features)
    sides = (("members", members), ("nonmembers", nonmembers), ("population", population))
    if speaks is None:
        expected, whole = way.columns, is_module(model)
        read = partial(read_records, columns=columns, whole=whole, expected=expected)
    else:
        from .texts import read_texts, text_subject  # which imports torch

        read = partial(read_texts, columns=columns)
    parts = check_alike(
        [read(given, what) for what, given in sides if given is not None or what != "population"]
    )
    once = distinct(parts, overlap)
    parts, notes = once.parts, once.notes
    progress = progress or Silent()
    name = way.name if speaks is None else speaks.name
    progress.note(f"asking {name} about {sum(map(len, parts)):,} records")
    if speaks is None:
        subject = classifier_subject(way, once, least_probability, how)
    else:
        subject = text_subject(speaks, once)
    target, notes = subject.target, [*notes, *subject.notes]
    if is_constant(target):
        notes.append(
            f"{target.name} says the same of all {len(target.compared):,} records: nothing in its answers depends on a record, and nothing can be "
            f"told by them{', and no shadow models are fitted' if shadows else ''}"
        )
    members_here, audit = len(parts[0]), len(parts[0]) + len(parts[1])
    everybody = np.arange(len(target.compared))

    def write(name: str, said: Said, who: np.ndarray, role: Role, made: Any, **extra: Any) -> None:
        given = GivenRun(
            name,
            said.name,
            who,
            said.values,
            role=role,
            model=said.name,
            recipe=parameters(made, parts=False),
            extra={name: value for name, value in extra.items() if value != []},
        )
        target = name if role == "target" else None
        import_runs(
            lake,
            experiment,
            subject.universe,
            lambda: [given],
            [name],
            layout="audit",
            source="",
            target=target,
            progress=None,
        )

    with unused_removed(lake, experiment):
        constant = {"says_the_same": True} if is_constant(target) else {}
        write(
            run,
            target,
            everybody < members_here,
            "target",
            model,
            **subject.facts,
            **constant,
            notes=[*notes],
        )
        if constant:
            shadows = 0
        laid = list(_shadow_runs(lake, experiment, shadows, seed))
        progress.start(sum(not lake.has_run(experiment, name) for name, _, _ in laid), "shadow models")
        answers: dict[str, str] = {}
        waiting: list[tuple[Shadow, Callable[[], None]]] = []
        told: list[list[str]] = []
        compared, before = False, None

        def kept(several: list[tuple[Shadow, Callable[[], None]]]) -> None:
            for one, keep in several:
                keep()
                progress.advance(1, one.name)
            several.clear()

        try:
            for name, number, block in laid:
                if lake.has_run(experiment, name):
                    there = lake.run(experiment, name).info
                    if there.role != "shadow":
                        raise AlreadyExists(
                            f"run {name!r} of experiment {experiment!r} is no shadow model; choose another experiment name"
                        )
                    answers[str(there.extra.get("answers"))] = name
                    continue
                assert fit is not None
                drawn = design_members(audit, block["count"], design="balanced", seed=block["seed"])
                chosen = drawn[number - block["first"]]
                # Copies of a record are in or out together: a model without one that knows the other is none without it.
                rows = chosen[once.samples[: len(once.whole[0]) + len(once.whole[1])]]
                given = members_of_all(once.whole[0], once.whole[1], rows, pair=train is None)
                its_seed = derived(block["seed"], _SEEDS, number)
                made = trained(fit, given, its_seed, f"shadow model {name}")
                check_another(made, model, before, f"shadow model {name}", "train")
                before = made
                said = subject.ask(made, f"shadow model {name}")
                within = np.append(chosen, np.zeros(len(everybody) - audit, dtype=bool))
                shadow = Shadow(name, its_seed, said, chosen)
                its_notes: list[str] = []
                keep = partial(
                    write, name, said, within, "shadow", made, design=dict(block), answers=digest_of(said), maker=maker,
                    notes=its_notes,
                )  # fmt: skip
                if compared:
                    keep()
                    progress.advance(1, name)
                    continue
                # The first two are kept together, once it is known that their members make a difference to them.
                its_notes += _told_alike(shadow, target, answers, refuse=train is not None)
                compared = bool(answers)
                answers[digest_of(said)] = name
                waiting.append((shadow, keep))
                told.append(its_notes)
                if not compared:
                    continue
                if len(waiting) > 1 and train is not None:
                    first = waiting[0][0]

                    def again(seed: int = first.seed, given: Any = given) -> Said:
                        return subject.ask(trained(train, given, seed, "a shadow model"), "a shadow model")

                    its_notes += check_depends(first, shadow, members_here, again)
                kept(waiting)
            kept(waiting)
            notes += (note for its in told for note in its)
        finally:
            progress.finish()
        known = {} if is_constant(target) else {digest_of(target): "the audited model"}
        for number, other in enumerate(references):
            name = f"reference-{number:04d}"
            check_another(other, model, references[number - 1] if number else None, name, "references=")
            said = subject.ask(other, name)
            if is_telling(said) and digest_of(said) in known:
                raise InvalidInput(
                    f"{name} answers as {known[digest_of(said)]} does, about all {len(everybody):,} records: a reference is another model, "
                    "trained on none of these records"
                )
            known[digest_of(said)] = name
            write(name, said, everybody < 0, "reference", other)
    sizes = [one.members for one in lake.runs(experiment, FLEET)]
    if len(sizes) > asked_for:
        notes.append(
            f"all {len(sizes)} shadow models that experiment {experiment!r} holds in the lake are used, where shadows={asked_for} was asked "
            f"for; they were made by {made_by(lake, experiment)}"
        )
    if sizes and not _FEWER * members_here <= np.mean(sizes) <= members_here / _FEWER:
        notes.append(
            f"the shadow models are trained on {round(np.mean(sizes)):,} records each, half of all, and the target on {members_here:,}: with "
            "as many non-members as members they would be trained on as many"
        )
    return tuple(notes)


def _shadow_runs(lake: Lake, experiment: str, count: int, seed: int) -> Iterator[tuple[str, int, Block]]:
    """Name, number and block of each shadow model, as they are laid down in the lake."""
    if count:
        blocks = lay_down(
            lake,
            experiment,
            FLEET,
            count,
            seed=seed,
            options={"design": "balanced", "probability": 0.5},
        )
        yield from numbered(FLEET, blocks, count)


def _told_alike(shadow: Shadow, target: Said, others: dict[str, str], *, refuse: bool) -> list[str]:
    """A note where a shadow model answers as the target or another one; to ``refuse`` where that is no chance."""
    like = agreement(shadow, target, others)
    if like is None:
        return []
    told = f"shadow model {shadow.name} answers about all {len(target.compared):,} records exactly as {like} does, which was given other ones"
    if refuse and is_telling(shadow.said):
        raise InvalidInput(f"{told}: train does not depend on its members{REMEDY}")
    return [f"{told}: what such models learn of these records is the same from any of them"]
