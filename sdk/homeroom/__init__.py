"""The SDK of Homeroom: what runs on a school's device."""
