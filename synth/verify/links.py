"""Every shard names the checksum of what it was made from; where that does not hold, which of the files is to blame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack

from synth.verify import views
from synth.verify.findings import Book
from synth.verify.layout import Layout, StepFiles
from synth.verify.opened import Opened, open_shard
from synth.verify.shard_file import Unreadable
from synth.verify.views import ScoreShard


class Links:
    """Puts blame into the book: on a torn source where there is one, else on what was made from other bytes."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def stale(self, source: Opened, stale: Sequence[Opened], *, of: int = 1) -> None:
        """`stale` of the `of` shards that were made from `source` name another checksum than it has."""
        if not stale or self._torn([source]):
            return
        if len(stale) == of > 1 and len({shard.stamp.input for shard in stale}) == 1:
            self._book.damage(source.file.path, f"its bytes are not those that {of} shards were made from")
            return
        for shard in stale:
            self._book.damage(shard.file.path, f"was made from other bytes of {source.name} than there are now")

    def view(
        self, view: Opened, pairs: Opened, scores: Sequence[Opened], folders: Sequence[StepFiles]
    ) -> list[Opened] | None:
        """The score shards that a view's shard was made from, in its order; None, with the blame, if there are none."""
        shards = [ScoreShard(n, tuple(_columns(each)), each.file.sha256()) for n, each in enumerate(scores)]
        rows = list(views.candidates(view.file.names[len(pairs.file.names) :], shards))
        for row in rows:
            if views.made_from(pairs.file.sha256(), row) == view.stamp.input:
                made = [scores[each.place] for each in row]
                self._check_record(view, [each.step.name for each in made])
                return made
        lost = [step for step in folders if view.stamp.shard not in step.shards]
        if any(self._book.blames(each.file.path) for each in (pairs, *scores)):
            return None
        if not rows and lost:
            self._book.damage(
                lost[0].file(view.stamp.shard), f"is missing, and {view.name} has columns that no other has"
            )
        elif not rows:
            self._book.damage(view.file.path, "has score columns that no folder of scores/ has")
        elif not self._torn([pairs, *scores]):
            sources = ", ".join(each.name for each in (pairs, *scores))
            self._book.damage(view.file.path, f"was made from other bytes than there are now in one of {sources}")
        return None

    def _check_record(self, view: Opened, scores: Sequence[str]) -> None:
        """Compare the record of a view's rules with what its shard names and was made from."""
        identity = view.stamp.identity
        path = self._book.root / "index" / f"rules-{identity[:16]}.json"
        try:
            record = json.loads(path.read_bytes())
            named, recorded, rules = record["fingerprint"], record["scores"], record["rules"]
        except FileNotFoundError:
            self._book.note(path, f"the record of the rules of {view.step.name} is missing")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            self._book.damage(path, f"cannot be read ({exc!r})")
        else:
            whole = record.get("shards") is None  # otherwise the fingerprint also holds the shards compared
            if named != identity or (whole and views.fingerprint(rules, recorded) != identity):
                self._book.damage(path, "is not the record of the rules that its name tells")
            elif recorded != scores:
                self._book.damage(path, f"names other scores than {view.name} was made from")

    def _torn(self, shards: Sequence[Opened]) -> bool:
        torn = False
        for shard in shards:
            try:
                shard.file.check_pages()
            except Unreadable as exc:
                self._book.damage(shard.file.path, str(exc))
                torn = True
        return torn


def score_folders(layout: Layout, view: StepFiles) -> set[str] | None:
    """Names of the score folders that a view was made from, judged by its first shard; None where it cannot be told."""
    index = min(view.shards)
    with ExitStack() as stack:
        try:
            mine, pairs = (open_shard(step, index, stack, ["id"]) for step in (view, layout.generated))
            having = [step for step in layout.scores if index in step.shards]
            scores = [open_shard(step, index, stack, ["id"]) for step in having]
            made = Links(Book(layout.root)).view(mine, pairs, scores, layout.scores)
        except Unreadable:
            return None
    return None if made is None else {each.step.name for each in made}


def _columns(shard: Opened) -> list[str]:
    return [name for name in shard.file.names if name != "id"]
