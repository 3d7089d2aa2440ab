"""What must hold besides `protocol.Protocol` in a lake that other engines read, and of an experiment that comes and goes.

The logs of the Delta tables are read here by themselves, as their specification has it: each version that can be read, not the newest
alone. Samples, runs and results of experiment "e" are published; experiment "x" is made, written into and removed as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
from acts import Broken, N, found
from losslake.store.delta import log
from losslake.store.delta.compare import Compared, compare
from losslake.store.delta.publish import publish, unpublish
from losslake.store.delta.tables import TABLES
from losslake.store.lake import Lake
from losslake.store.upkeep.remove import remove
from losslake.store.upkeep.verify import verify
from protocol import REFUSED, RUNS, Protocol, Work

KINDS = ("write", "write", "write", "analyze", "forget", "forget", "compact", "gc", "remove", "publish", "publish",
         "keep", "unpublish", "found", "found", "drop", "train")  # fmt: skip

Shown = dict[str, tuple[int, dict[str, list[int]]]]


class Published(Protocol):
    """A lake whose tables are published, after each commit where it is ``indexed`` too."""

    refused = REFUSED | {
        "publish": "other processes publish|another process removes the Delta",
        "keep": "other processes publish|another process removes the Delta",
        "unpublish": "$never",
        "found": "is in the lake already|is not committed|holds other samples|others remove it again|no experiment|is not made",
        "drop": "another process|is being written|no experiment|was lost",
    }

    def __init__(self, *, indexed: bool = False) -> None:
        super().__init__(indexed=indexed)
        self._set.enter_context(patch.object(log, "LONGEST", 2))  # checkpoints also where nothing is removed
        self._read: dict[Path, list[dict[str, Any]]] = {}
        self._seen: set[int] = set()
        self.start("keep", "a", int(indexed), 1_000_000)

    def _act(self, kind: str, which: int, mark: int) -> tuple[str, Callable[[Lake], Any]]:
        match kind:
            case "publish":
                return "", publish
            case "keep":
                return "", lambda lake: publish(lake, keep=which % 4 > 0)
            case "unpublish":
                return "", unpublish
            case "found":
                run = RUNS[which % 2]
                return run, lambda lake: found(lake, run, mark)
            case "drop":
                return "", lambda lake: remove(lake, "x")
        return super()._act(kind, which, mark)

    # --- what must hold -----------------------------------------------------------------------------------

    def _check_more(self, shown: Shown) -> None:
        self._seen |= {mark for mark, _ in shown.values()} | self._check_x()
        tables = {table: list(self._versions(table)) for table in TABLES}
        for table, versions in tables.items():
            for number, adds in versions:
                rows = [row for path, add in adds.items() for row in self._rows_of(table, path, add)]
                self._check_rows(f"version {number} of {table}", table, rows)
        last = self.work[-1] if self.work else None
        alone = last and not any(each.process.at_work for each in self.work)
        if last and alone and last.kind in ("publish", "keep") and last.done:
            began = last.process.began
            if all(each.end < began or each.process.ended < began for each in self.work[:-1]):
                self._check_newest(tables, shown)

    def _may_be_told(self, damage: str) -> bool:
        stopped = any(each.process.killed or each.process.slept for each in self._of("drop"))
        return stopped and "removal of experiment x did not finish" in damage

    def end(self, *, kill: bool) -> None:
        """And then all can be read, and of experiment "x" everything can go. Raises Broken."""
        super().end(kill=kill)
        self.start("keep", "b", 1, 1_000_000)
        self.start("drop", "c", 0, 1_000_000)
        if not self.work[-1].done and "no experiment" not in str(self.work[-1].process.error):
            raise Broken(f"it cannot be removed: {self.work[-1]}")
        self.start("publish", "a", 0, 1_000_000)
        left = self._files_of_x()
        if left or not self.work[-1].done or verify(Lake.open(self.path)).damage:
            raise Broken(f"left in the end: {left} {self.work[-1]} after\n  " + self._told())

    def _check_rows(self, where: str, table: str, rows: list[dict[str, Any]]) -> None:
        writers = {each.mark: each for each in self.work if each.kind in ("write", "train", "found")}
        gone = {int(each.what) for each in self._of("forget") if each.done}
        for row in rows:
            mark = row.get("mark")
            if mark is not None:
                writer = writers[mark]
                if mark not in self._seen and not self._may_have_been(writer):
                    raise Broken(f"{where} has rows of {writer}, which is not committed")
                for removal in self._removals_of(writer):
                    if removal.done and writer.end < removal.process.began:
                        raise Broken(f"{where} has rows of {writer} after {removal}")
            if row["experiment"] != "e":
                continue
            known = gone & set(row["ids"])
            whole = mark is None or writers[mark].done
            if known and whole and not (table in ("scores", "metrics") and self._analysing()):
                raise Broken(f"{where} has {known}, which are forgotten: {row}")

    def _may_have_been(self, writer: Work) -> bool:
        """Whether its run may have been in the lake without this having been seen: others removed it meanwhile."""
        return any(each.end > writer.process.began for each in self._removals_of(writer))

    def _removals_of(self, writer: Work) -> list[Work]:
        if writer.kind == "found":
            return self._of("drop")
        return [each for each in self._of("remove") if each.what == writer.what]

    def _analysing(self) -> bool:
        return any(not each.done and not each.refused for each in self._of("analyze"))

    def _check_newest(self, tables: dict[str, list[tuple[int, dict[str, Any]]]], shown: Shown) -> None:
        """Right after publishing, nobody else at work: the newest version says what the manifests do, and no other can be read that had more."""
        lake = Lake.open(self.path)
        if (said := compare(lake)) != Compared():
            raise Broken(f"published, and {said}")
        for table in ("signals", "traces"):
            _, adds = tables[table][-1]
            rows = [row for path, add in adds.items() for row in self._rows_of(table, path, add)]
            told = {row["run"]: (row["mark"], sorted(row["ids"])) for row in rows if row["experiment"] == "e"}
            expected = {run: (mark, sorted(of[table])) for run, (mark, of) in shown.items()}
            if told != expected or len(rows) != len({(row["experiment"], row["run"]) for row in rows}):
                raise Broken(f"{table} has {rows}, the lake {expected}")

    def _check_x(self) -> set[int]:
        """The experiment that comes and goes; the marks of its runs."""
        lake = Lake.open(self.path)
        writers = {each.mark: each for each in self._of("found")}
        ended = [each for each in self._of("drop") if each.done]
        there = "x" in lake.experiments()
        marks = set()
        if there:
            (maker,) = set(lake.samples("x")["label"].to_pylist())
            self._check_not_dropped(writers[maker], "experiment x")
            for run in lake.runs("x"):
                rows = [row for part in lake.run_rows(run, "signals") for row in part.to_pylist()]
                mark, known = {row["loss"] for row in rows}, {row["phi"] for row in rows}
                if mark != {run.info.seed} or len(rows) != N or known != {maker}:
                    raise Broken(
                        f"{run.run} has rows of {mark}, made for {known}; the experiment is of {maker}"
                    )
                marks.add(int(run.info.seed or 0))
                self._check_not_dropped(writers[int(run.info.seed or 0)], run.run)
        for writer in writers.values():
            dropped = any(each.end > writer.process.began for each in self._of("drop") if not each.refused)
            if writer.done and writer.mark not in marks and not dropped:
                raise Broken(f"{writer} is not there")
        for each in ended:
            if not there and all(
                w.end < each.process.began for w in (*writers.values(), *self._of("drop")) if w is not each
            ):
                left = [path for path in self._files_of_x() if "/delta/" not in str(path)]
                if left:
                    raise Broken(f"after {each} there is {left}")
        return marks

    def _files_of_x(self) -> list[Path]:
        return [
            path
            for path in self.path.rglob("*")
            if "=x" in str(path) and (path.is_symlink() or path.is_file())
        ]

    def _check_not_dropped(self, writer: Work, what: str) -> None:
        for each in self._of("drop"):
            if each.done and writer.end < each.process.began:
                raise Broken(f"{what} of {writer} is there after {each}")

    # --- the logs -----------------------------------------------------------------------------------------

    def _versions(self, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every version that can be read, oldest first: what it names, by path below the table's folder."""
        folder = self.path / "delta" / table / "_delta_log"
        if not folder.is_dir():
            return
        names = {path.name: path for path in folder.iterdir()}
        commits = {
            int(name[:20]): path for name, path in names.items() if re.fullmatch(r"\d{20}\.json", name)
        }
        points = {int(n[:20]): p for n, p in names.items() if re.fullmatch(r"\d{20}\.checkpoint\.parquet", n)}
        adds: dict[str, Any] | None = None
        for number in range(max([*commits, *points, -1]) + 1):
            if number in points:
                rows = [row["add"] for row in pq.read_table(points[number]).to_pylist() if row["add"]]
                adds = {add["path"]: {**add, "partitionValues": dict(add["partitionValues"])} for add in rows}
            elif number in commits and (adds is not None or number == 0):
                adds = dict(adds or {})
                for action in map(json.loads, commits[number].read_text().splitlines()):
                    if "remove" in action:
                        del adds[action["remove"]["path"]]
                    if "add" in action:
                        adds[action["add"]["path"]] = action["add"]
            else:
                adds = None
            if adds is not None:
                yield number, adds
        # Who publishes while the tables are removed, and is killed, may leave one version that the next one mends.
        alone = not any(each.end > 0 for each in self._of("unpublish") if each.process.calls)
        if adds is None and (commits or points) and alone:
            raise Broken(f"the newest version of {table} cannot be read: {sorted(names)}")

    def _rows_of(self, table: str, path: str, add: dict[str, Any]) -> list[dict[str, Any]]:
        """What a named file has, where it is there: runs with the samples they have rows of, or samples alone."""
        file = self.path / "delta" / table / path
        if not file.exists():
            return []
        real = file.resolve()
        if real not in self._read:
            if file.stat().st_size != add["size"]:
                raise Broken(f"{table} names {path} with {add['size']} bytes; it has {file.stat().st_size}")
            self._read[real] = list(told(table, file, add["partitionValues"]["experiment"]))
        return self._read[real]


def told(table: str, file: Path, experiment: str) -> Iterator[dict[str, Any]]:
    """What is checked of the rows of a file of a Delta table."""
    rows = pq.read_table(file, partitioning=None).to_pylist()
    if table == "runs":
        for row in rows:
            yield {"experiment": experiment, "run": row["run"], "mark": row["seed"], "ids": []}
    elif table == "metrics":
        bits = [int(row["value"]) for row in rows if row["metric"] == "bits"]
        yield {"experiment": experiment, "ids": [i for i in range(N) if any(each >> i & 1 for each in bits)]}
    elif table in ("samples", "scores"):
        ids = [row["sample_id"] for row in rows if row.get("pool") != "forgotten"]
        yield {"experiment": experiment, "ids": ids}
    else:
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run"], []).append(row)
        for run, own in by_run.items():
            marks = {value for row in own for value in (row["loss"] if table == "traces" else [row["loss"]])}
            if len(marks) != 1:
                raise Broken(f"{file.name} has rows of {marks} for {run}")
            ids = [row["sample_id"] for row in own]
            yield {"experiment": experiment, "run": run, "mark": int(marks.pop()), "ids": ids}
