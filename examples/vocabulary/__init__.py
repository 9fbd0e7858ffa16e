"""The vocabulary lesson: pictures, written words and spoken words for five schools."""
