"""A secure sum of the bundle before is unlearned as a whole in the folder that took over."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from aggregator.institution import write_bundle
from aggregator.secagg.district import District
from aggregator.secagg.test_member_attacks import EVERYBODY, until_version
from aggregator.secagg.test_rewind import REWIND, train
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.server.service import open_service


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"unlearning": REWIND}


def test_a_sum_of_the_bundle_before_goes_as_a_whole_in_the_folder_that_took_over(
    district: District, tmp_path: Path
) -> None:
    leaver = district.members[2]
    until_version(district, 1, *EVERYBODY)
    first = district.theta
    train(district, 1)
    second = leaver.store.outbox.pending()[-1].update_id
    until_version(district, 2, *EVERYBODY)
    district.service.close()
    upgrade_bundle(tmp_path / "later", district.folder, write_bundle(tmp_path / "two", version=2))
    with contextlib.closing(open_rounds(tmp_path / "later")) as rounds:
        assert rounds.withdraw(second, leaver.school.name)
        planned = rounds.to_unlearn()
        assert planned is not None
        assert (planned.to, planned.versions, planned.sums) == (1, 1, 1)
        assert rounds.rewind(by="tests") == 3
        assert rounds.state.theta.tobytes() == first
        assert rounds.verify() == []
    district.service = open_service(district.folder)
