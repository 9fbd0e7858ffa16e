"""Other tools' formats, read and written."""
