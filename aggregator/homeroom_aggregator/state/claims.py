"""Claims: whose an update id of a secure round is, and whether the update is in a sum.

The server cannot look into a masked update; that its maker offered it is proven by the signed advertisement alone. The
whole cohort sees the ids of such advertisements. So an id belongs for good to the member that offered it first: nobody
else offers or withdraws it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from homeroom.system.sqlite import Database
from homeroom_aggregator.state import secure_sum

CLAIMS_TABLE = """CREATE TABLE claims (
    update_id TEXT PRIMARY KEY, member TEXT NOT NULL, version INTEGER NOT NULL, summed INTEGER NOT NULL)"""
CLAIMS_INDEX = "CREATE INDEX claims_by_member ON claims (member)"
MOST_CLAIMS = 100  # of one member, of updates that are in no sum


def prepare(database: Database, member_of: Callable[[str], str]) -> None:
    """Makes the table, with the claims of the sums that a log of before it holds; `member_of` names a key's member."""
    if database.one("SELECT 1 FROM sqlite_schema WHERE name = 'claims'"):
        return
    with database.transaction():
        database.write(CLAIMS_TABLE)
        database.write(CLAIMS_INDEX)
        last = int(database.one("SELECT COALESCE(max(number), 0) FROM log")[0])
        version = int(database.one("SELECT COALESCE(max(version), 0) FROM log")[0])
        for header in secure_sum.headers(database, 0, last + 1):
            mark_summed(database, {one: member_of(key) for one, key in header.updates.items()}, version)


def claim(database: Database, update_id: str, member: str, version: int, oldest: int) -> bool:
    """Notes who offered an update while `version` was the newest; False where the id is another's, or one too many.

    oldest: claims of versions before it are forgotten, unless they are in a sum: nobody offers such an update again.
    """
    database.write("DELETE FROM claims WHERE NOT summed AND version < ?", (oldest,))
    count = "SELECT count(*) FROM claims WHERE member = ?2 AND NOT summed"
    sql = f"INSERT OR IGNORE INTO claims SELECT ?1, ?2, ?3, 0 WHERE ({count}) < ?4"
    database.write(sql, (update_id, member, version, MOST_CLAIMS))
    return claimant(database, update_id) == member


def claimant(database: Database, update_id: str) -> str | None:
    """The member whose an update id is, or None."""
    row = database.one("SELECT member FROM claims WHERE update_id = ?", (update_id,))
    return row[0] if row else None


def mark_summed(database: Database, updates: Mapping[str, str], version: int) -> None:
    """Notes that updates, with their members, are in a sum that was opened while `version` was the newest."""
    sql = "INSERT INTO claims VALUES (?, ?, ?, 1) ON CONFLICT (update_id) DO UPDATE SET summed = 1"
    database.write_many(sql, [(update_id, member, version) for update_id, member in updates.items()])


def is_summed(database: Database, update_id: str) -> bool:
    """Whether an update is in a sum."""
    return database.one("SELECT 1 FROM claims WHERE update_id = ? AND summed", (update_id,)) is not None


def summed_at(database: Database, update_id: str) -> int | None:
    """The newest version when the sum was opened that an update is in; None where it is in none."""
    row = database.one("SELECT version FROM claims WHERE update_id = ? AND summed", (update_id,))
    return int(row[0]) if row else None


def summed(database: Database, member: str, since: int) -> list[str]:
    """Ids of a member's updates that are in a sum, offered in version `since` or later."""
    sql = "SELECT update_id FROM claims WHERE member = ? AND summed AND version >= ? ORDER BY update_id"
    return [row[0] for row in database.rows(sql, (member, since))]
