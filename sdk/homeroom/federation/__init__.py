"""The device's part in a federation: enrolment, sync, policy, privacy ledger."""
