"""The outbox: signed updates on their way to the aggregator, their residuals, and requests to unlearn those sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from homeroom.store import clone_detection, edit_detection
from homeroom.store.context import StoreContext
from homeroom.store.device_state import RESIDUAL, bytes_record
from homeroom.store.records import StoredUpdate

RESIDUAL_OF = bytes_record(RESIDUAL)  # of an update, whose id follows
SPENT_RESIDUALS = f"name IN (SELECT '{RESIDUAL}' || update_id FROM updates WHERE state = 'sent')"


class Outbox:
    """Updates of one store: pending, sending, sent or refused."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def queue(
        self,
        update_id: str,
        data: bytes,
        base: int,
        subjects: Iterable[str],
        bundle_id: str = "",
        residual: bytes = b"",
        earlier: Collection[str] = (),
    ) -> bool:
        """Queues a signed update in place of an unsent one of the same bundle, or an earlier one, and the same base.

        data: the update's bytes as they were signed.
        base: the global version that it answers.
        subjects: whose samples entered it.
        residual: the part that it could not carry, for the update after it.
        earlier: ids of bundles whose versions go on under the same numbers.

        False, and nothing changed, if one of that base is on its way or sent, or this very one was refused.
        """
        database = self._context.database
        bundles = [bundle_id, *earlier]
        marks = ", ".join("?" * len(bundles))
        sql = f"SELECT update_id, state FROM updates WHERE base = ? AND bundle_id IN ({marks})"
        with database.transaction():
            for old, state in database.rows(sql, (base, *bundles)):
                if state in ("sending", "sent") or (state == "refused" and old == update_id):
                    return False
                self.drop(old)
            sealed = self._context.keys.device.seal(data, "updates.data", update_id)
            row = (update_id, bundle_id, base, sealed)
            database.write("INSERT INTO updates VALUES (?, ?, ?, 'pending', ?)", row)
            self._context.link("update", update_id, subjects)
            RESIDUAL_OF.write(self._context, residual or None, update_id)
        return True

    def residual(self) -> tuple[bytes, tuple[str, ...]]:
        """The residual of the last update that was sent, or begun to be, and the subjects in it."""
        sql = "SELECT update_id FROM updates WHERE state IN ('sending', 'sent') ORDER BY rowid DESC"
        for (update_id,) in self._context.database.rows(sql):
            if body := RESIDUAL_OF.read(self._context, update_id):
                return body, self._context.linked("update", update_id)
        return b"", ()

    def pending(self) -> list[StoredUpdate]:
        """Updates to send, oldest base first; those whose sending was begun are sent again under the same id."""
        sql = "SELECT update_id, base, data FROM updates WHERE data IS NOT NULL ORDER BY base"
        device = self._context.keys.device
        return [
            StoredUpdate(update_id, base, device.open(data, "updates.data", update_id))
            for update_id, base, data in self._context.database.rows(sql)
        ]

    def sent(self) -> list[str]:
        """Ids of the updates that the aggregator has, or may have."""
        return [row[0] for row in self._context.database.rows("SELECT update_id FROM updates WHERE state = 'sent'")]

    def mark_sending(self, update_id: str) -> None:
        """Marks an update before the first attempt: it may arrive without an answer, so it is not replaced.

        EditedError while an edit of the store is not accepted.
        """
        edit_detection.check_unedited(self._context)
        clone_detection.begin_sending(self._context, update_id)
        self._context.database.write("UPDATE updates SET state = 'sending' WHERE update_id = ?", (update_id,))

    def mark_sent(self, update_id: str) -> None:
        """Marks an update that the aggregator has, or has in a sum: its id and lineage stay, its bytes go."""
        database = self._context.database
        clone_detection.begin_sending(self._context, update_id)
        with self._context.step("sent", 1):
            database.write("UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ?", (update_id,))
            database.write(f"DELETE FROM secrets WHERE name != ? AND {SPENT_RESIDUALS}", (RESIDUAL + update_id,))
        self._context.back_up()

    def mark_refused(self, update_id: str) -> None:
        """Marks an update that the aggregator refused: it is not sent again, and another may take its place."""
        with self._context.step("refused", 1):
            sql = "UPDATE updates SET state = 'refused', data = NULL WHERE update_id = ?"
            self._context.database.write(sql, (update_id,))
            RESIDUAL_OF.write(self._context, None, update_id)

    def call_off(self, update_id: str) -> None:
        """Stops an update: dropped if nobody can have it, else left as sent, so that it is not counted twice."""
        sql = "UPDATE updates SET state = 'sent', data = NULL WHERE update_id = ? AND state = 'sending'"
        with self._context.database.transaction():
            if not self._context.database.write(sql, (update_id,)):
                self.drop(update_id)

    def drop(self, update_id: str) -> None:
        """Removes an update with its residual and its lineage."""
        with self._context.database.transaction():
            self._context.database.write("DELETE FROM updates WHERE update_id = ?", (update_id,))
            self._context.unlink("update", update_id)
            RESIDUAL_OF.write(self._context, None, update_id)

    def charge(self, noise: str, update_id: str) -> None:
        """Counts a private update of a noise multiplier outside the directory, before its first byte leaves."""
        edit_detection.check_unedited(self._context)
        clone_detection.note_charge(self._context, noise, update_id)

    def charges(self) -> dict[str, int]:
        """How many private updates were begun, by noise multiplier, whatever copy of the directory this is."""
        return {noise: count for noise, (count, _) in self._context.key_ring.charged.items()}

    def unlearning(self) -> list[str]:
        """Ids of the sent updates whose removal is still to be asked for."""
        rows = self._context.database.rows("SELECT update_id FROM unlearning WHERE state = 'pending'")
        return [row[0] for row in rows]

    def ask_unlearning_again(self) -> None:
        """Asks once more for what was asked: the aggregator may have been restored from before it heard of that."""
        with self._context.step("unlearning asked again"):
            self._context.database.write("UPDATE unlearning SET state = 'pending' WHERE state = 'sent'")

    def mark_unlearned(self, update_id: str) -> None:
        """Marks an update whose removal the aggregator was asked for."""
        with self._context.step("unlearning asked", 1):
            self._context.database.write("UPDATE unlearning SET state = 'sent' WHERE update_id = ?", (update_id,))
