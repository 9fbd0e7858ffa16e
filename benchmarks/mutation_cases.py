"""What the mutations work on: the folders of security checks, removals that are always tried, and equivalent ones."""

from __future__ import annotations

from dataclasses import dataclass

FOLDERS = (
    "sdk/homeroom/contract",
    "sdk/homeroom/privacy",
    "sdk/homeroom/runtime",
    "sdk/homeroom/store",
    "sdk/homeroom/federation",
    "sdk/homeroom/data/ingest",
    "sdk/homeroom/agent",
    "aggregator/homeroom_aggregator/state",
    "aggregator/homeroom_aggregator/merge",
    "aggregator/homeroom_aggregator/secagg",
    "aggregator/homeroom_aggregator/admin",
    "aggregator/homeroom_aggregator/server",
)


TESTS = (
    *(f"tests/sdk/{name}" for name in ("contract", "privacy", "runtime", "federation")),
    *(f"tests/aggregator/{name}" for name in ("state", "secagg", "admin", "merge")),
    "tests/sdk/store",
    "tests/aggregator/server",
    *(f"tests/sdk/{name}" for name in ("data", "system", "inference", "cli", "device", "agent")),
    "tests/aggregator",
    "tests/faults/test_damage.py",
)
"""The nearest to the checks first."""


@dataclass(frozen=True)
class Removal:
    """A check by its text, which stands once in the file at `path`, what replaces it, and the tests that notice it."""

    name: str
    path: str
    text: str
    replacement: str
    test: str


SURVIVORS = (
    Removal(
        "least number of devices in each segment of a secure sum",
        "sdk/homeroom/privacy/secagg/client.py",
        "len(fed & set(slots)) < minimum",
        "False",
        "tests/sdk/privacy/test_secagg_adversary.py",
    ),
    Removal(
        "a device's own keys as it sent them",
        "sdk/homeroom/privacy/secagg/client.py",
        "state.advertisement not in cohort.members",
        "False",
        "tests/sdk/privacy/test_secagg_adversary.py",
    ),
    Removal(
        "the roster that the round was announced with",
        "sdk/homeroom/privacy/secagg/client.py",
        "roster.roster_id != state.notice.roster_id",
        "False",
        "tests/sdk/privacy/test_secagg_adversary.py",
    ),
    Removal(
        "one set of survivors a device",
        "sdk/homeroom/privacy/secagg/client.py",
        "own not in survivors.places",
        "False",
        "tests/sdk/privacy/test_secagg_adversary.py",
    ),
    Removal(
        "signature of an offline message",
        "sdk/homeroom/contract/offline_message.py",
        'envelope.check(header.device, "letter", plain, signature, where=where)',
        "pass",
        "tests/sdk/contract/test_offline_attacks.py",
    ),
    Removal(
        "signature of an offline answer",
        "sdk/homeroom/contract/offline_message.py",
        'envelope.check(header.certificate.key, "answer", plain, signature, where=where)',
        "pass",
        "tests/sdk/contract/test_offline_attacks.py",
    ),
    Removal(
        "receiver of an offline answer",
        "sdk/homeroom/contract/offline_message.py",
        "header.device != device",
        "False",
        "tests/sdk/contract/test_offline_attacks.py",
    ),
    Removal(
        "role of an offline message's device",
        "aggregator/homeroom_aggregator/admin/offline.py",
        'member is None or member.role != "device"',
        "member is None",
        "tests/aggregator/admin/test_offline_members.py::test_an_auditor_sends_no_update_on_a_stick",
    ),
    Removal(
        "consent of an offline message's school",
        "aggregator/homeroom_aggregator/admin/offline.py",
        "if not rounds.members.consented(member.school):\n            return Receipt",
        "if False:\n            return Receipt",
        "tests/aggregator/admin/test_offline_members.py::test_updates_of_a_school_without_consent_wait_on_its_devices",
    ),
    Removal(
        "bundle of an offline message",
        "aggregator/homeroom_aggregator/admin/offline.py",
        "header.bundle_id != rounds.bundle.bundle_id",
        "False",
        "tests/aggregator/admin/test_offline_members.py::test_a_message_about_another_bundle_enrols_nobody",
    ),
    Removal(
        "clip of values and signal together",
        "sdk/homeroom/contract/update_checks.py",
        " + signal * signal",
        "",
        "tests/sdk/contract/test_privacy.py",
    ),
    Removal(
        "one clip for all parts of an update",
        "sdk/homeroom/contract/update_checks.py",
        "> limit * limit",
        "> 4 * limit * limit",
        "tests/sdk/contract/test_privacy.py",
    ),
    Removal(
        "negative values beyond the scale",
        "sdk/homeroom/contract/codecs.py",
        " or data.min(initial=0) < -ENCODED_LIMIT",
        "",
        "tests/sdk/contract/test_codecs.py tests/sdk/contract/test_update.py",
    ),
    Removal(
        "steps that are not finite",
        "sdk/homeroom/contract/codecs.py",
        "not np.isfinite(step).all()",
        "False",
        "tests/sdk/contract/test_codecs.py tests/sdk/contract/test_update.py",
    ),
    Removal(
        "forgetting what an update could not carry",
        "sdk/homeroom/store/erasure.py",
        "for family in (RESIDUAL, SECURE):",
        "for family in (SECURE,):",
        "tests/sdk/store/test_erasure.py",
    ),
    Removal(
        "zeroed pages",
        "sdk/homeroom/system/sqlite.py",
        'for pragma in ("secure_delete", "foreign_keys", "cell_size_check"):',
        'for pragma in ("foreign_keys", "cell_size_check"):',
        "tests/sdk/store/test_erasure.py",
    ),
    Removal(
        "officers against officers",
        "aggregator/homeroom_aggregator/admin/officers.py",
        "if RANKS[officer.role] <= RANKS[member.role]:",
        "if False:",
        "tests/aggregator/state/test_member_attacks.py::test_nobody_revokes_their_own_rank_or_higher",
    ),
    Removal(
        "a revoked key that comes again",
        "aggregator/homeroom_aggregator/state/members.py",
        "known and known[0]",
        "False",
        "tests/aggregator/state/test_invitation_attacks.py::test_a_revoked_key_does_not_come_back",
    ),
    Removal(
        "a used invitation and another key",
        "aggregator/homeroom_aggregator/state/members.py",
        "holder and holder[0] != key",
        "False",
        "tests/aggregator/state/test_invitation_attacks.py::test_a_code_enrols_one_key_in_one_spelling",
    ),
    Removal(
        "end of an invitation",
        "aggregator/homeroom_aggregator/state/members.py",
        "not known and invitation.expires and now() > _moment(invitation.expires)",
        "False",
        "tests/aggregator/state/test_invitation_attacks.py::test_an_invitation_can_be_taken_back_and_ends_by_itself",
    ),
    Removal(
        "another institution's policy",
        "sdk/homeroom/federation/policy.py",
        "present is not None and policy.institution != present.institution",
        "False",
        "tests/sdk/federation/test_scopes.py::test_the_policy_of_another_or_an_older_one_is_refused",
    ),
    Removal(
        "an older policy",
        "sdk/homeroom/federation/policy.py",
        "present is not None and policy.version < present.version",
        "False",
        "tests/sdk/federation/test_scopes.py::test_the_policy_of_another_or_an_older_one_is_refused",
    ),
    Removal(
        "end of a login link",
        "aggregator/homeroom_aggregator/state/login_links.py",
        " or datetime.datetime.fromisoformat(row[3]) < now()",
        "",
        "tests/aggregator/server/test_dashboard.py::test_a_made_up_foreign_or_late_link_opens_nothing",
    ),
    Removal(
        "a link in a bundle",
        "sdk/homeroom/runtime/unpack.py",
        "stat.S_ISLNK(entry.external_attr >> 16)",
        "False",
        "tests/sdk/runtime/test_bad_bundle.py",
    ),
    Removal(
        "another's update id",
        "aggregator/homeroom_aggregator/merge/admission.py",
        "not mine and (owner or self.log.withdrawn(header.update_id))",
        "False",
        "tests/aggregator/merge/test_rounds.py::test_one_id_belongs_to_one_device",
    ),
)
"""Removals that no test noticed in an earlier trial."""

EQUIVALENT: dict[str, str] = {}
"""Removals that change nothing which a person or a program could notice, by `Check.key`, each with its reason."""
